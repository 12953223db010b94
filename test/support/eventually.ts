/** Waits for a fact instead of for a time: tries the check until it passes, and fails with what it last said. */
export async function eventually<T>(check: () => Promise<T> | T, { withinMs = 10_000 }: { withinMs?: number } = {}): Promise<T> {
  const end = performance.now() + withinMs;
  for (;;) {
    try {
      return await check();
    } catch (error) {
      if (performance.now() > end) throw error;
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
  }
}
