/** How long a delivery whose handler failed rests before it goes back to its queue: long enough that nothing spins. */
const firstMs = 500;
const longestMs = 5_000;

/** `inARow`: how many deliveries of this consumer have failed since one last succeeded, this one included. */
export const restMs = (inARow: number): number => Math.min(longestMs, firstMs * 1.5 ** (inARow - 1));
