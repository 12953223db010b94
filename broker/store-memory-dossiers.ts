/** The dossiers of the store in memory (`store-memory.ts`). */
import type { Clock } from './clock.js';
import { untoldMs, type Dossier, type Listed, type ListOptions, type Page, type Store } from './store.js';

interface Kept {
  dossier: Dossier;
  /** As text: what two versions are compared by. */
  text: string;
  wakeAt: number | undefined;
  untoldAt: number | undefined;
  /** The last version that the journal has. */
  told: number;
  expiresAt: number;
}

/** What each method does at once; the store makes promises of it. */
export interface MemoryDossiers {
  keep(dossier: Dossier, restores: boolean): Awaited<ReturnType<Store['keep']>>;
  dossier(kind: string, id: string): Dossier | undefined;
  dossiers(index: string, options: ListOptions): Page<Listed>;
  count(index: string, upTo?: number): number;
  wakeable(limit: number): readonly Dossier[];
  calling(dossier: Pick<Dossier, 'kind' | 'id' | 'version'>, againMs: number): boolean;
  called(dossier: Pick<Dossier, 'kind' | 'id' | 'version'>, againMs: number): void;
  told(dossier: Pick<Dossier, 'kind' | 'id' | 'version'>, againMs: number): void;
  untold(limit: number): readonly Dossier[];
  clear(): void;
  /** Remembers all; the returned function makes it so again. */
  copy(): () => void;
}

const nameOf = ({ kind, id }: Pick<Dossier, 'kind' | 'id'>): string => `${kind}/${id}`;

export function memoryDossiers(clock: Clock, retentionMs: number, wake: (name: string) => void): MemoryDossiers {
  const all = new Map<string, Kept>();

  function live(name: string): Kept | undefined {
    const kept = all.get(name);
    if (kept === undefined || kept.expiresAt > clock.now()) return kept;
    all.delete(name);
    return undefined;
  }

  const everyone = (): Kept[] => [...all.keys()].map(live).filter((kept) => kept !== undefined);

  /** Those with a time that has passed, oldest first. */
  const since = (timeOf: (kept: Kept) => number | undefined, limit: number) =>
    everyone()
      .map((kept) => ({ kept, at: timeOf(kept) ?? Infinity }))
      .filter(({ at }) => at <= clock.now())
      .sort((a, b) => a.at - b.at)
      .slice(0, limit)
      .map(({ kept }) => kept.dossier);

  return {
    keep(given, restores) {
      const name = nameOf(given);
      const { body } = given.message;
      const text = JSON.stringify({ ...given, message: { ...given.message, body: body.toString('base64') } });
      const known = live(name);
      const version = known?.dossier.version ?? 0;
      if (version === given.version && known?.text === text) return 'kept';
      if (restores ? version >= given.version : version !== given.version - 1) return 'conflict';
      const dossier = { ...given, data: JSON.parse(JSON.stringify(given.data)) as unknown, index: { ...given.index } };
      all.set(name, {
        dossier,
        text,
        wakeAt: dossier.wakeAt,
        untoldAt: clock.now() + (restores ? 0 : untoldMs),
        told: restores ? dossier.version : (known?.told ?? 0),
        expiresAt: dossier.isOpen ? Infinity : clock.now() + retentionMs,
      });
      if (dossier.wakeAt !== undefined) clock.expect?.(dossier.wakeAt);
      wake(name);
      return 'kept';
    },
    dossier: (kind, id) => live(nameOf({ kind, id }))?.dossier,
    dossiers(index, { limit, cursor, highestFirst = false }) {
      const sign = highestFirst ? -1 : 1;
      const compare = (a: readonly [number, string], b: readonly [number, string]) =>
        sign * (a[0] - b[0] || (a[1] < b[1] ? -1 : a[1] > b[1] ? 1 : 0));
      const listed = everyone()
        .filter(({ dossier }) => dossier.index[index] !== undefined)
        .map(({ dossier }) => ({ dossier, place: [dossier.index[index] ?? 0, nameOf(dossier)] as const }))
        .sort((a, b) => compare(a.place, b.place));
      const [score = '', last = ''] = cursor?.split(/ (.*)/s) ?? [];
      const from = cursor === undefined ? 0 : listed.findIndex(({ place }) => compare(place, [Number(score), last]) > 0);
      const page = from < 0 ? [] : listed.slice(from, from + limit);
      const end = page.length < limit ? undefined : page.at(-1);
      return {
        found: page.map(({ dossier: { message: _message, index: _index, ...shown } }) => shown),
        ...(end === undefined ? {} : { next: end.place.join(' ') }),
      };
    },
    count: (index, upTo = Infinity) => everyone().filter(({ dossier }) => (dossier.index[index] ?? NaN) <= upTo).length,
    wakeable: (limit) => since(({ wakeAt, told, dossier: { version } }) => (told === version ? wakeAt : undefined), limit),
    calling(dossier, againMs) {
      const kept = live(nameOf(dossier));
      if (kept?.dossier.version !== dossier.version || kept.wakeAt === undefined) return false;
      if (kept.wakeAt !== kept.dossier.wakeAt && kept.wakeAt > clock.now()) return false;
      kept.wakeAt = clock.now() + againMs;
      return true;
    },
    called(dossier, againMs) {
      const kept = live(nameOf(dossier));
      if (kept?.dossier.version === dossier.version && kept.wakeAt !== undefined) kept.wakeAt = clock.now() + againMs;
    },
    told(dossier, againMs) {
      const kept = live(nameOf(dossier));
      if (kept?.dossier.version !== dossier.version) return;
      kept.told = dossier.version;
      kept.untoldAt = kept.dossier.isOpen ? clock.now() + againMs : undefined;
      if (kept.untoldAt !== undefined) clock.expect?.(kept.untoldAt);
    },
    untold: (limit) => since(({ untoldAt }) => untoldAt, limit),
    clear: () => all.clear(),
    copy() {
      const before = [...all].map(([name, kept]) => [name, { ...kept }] as const);
      return () => {
        all.clear();
        for (const [name, kept] of before) all.set(name, { ...kept });
      };
    },
  };
}
