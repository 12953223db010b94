/**
 * What somebody typed into a task's form. It is kept in this tab from the first key on, and at the hub, each two seconds, once
 * the task is theirs: neither a claim lost to another nor a reload loses it.
 */
import { useCallback, useEffect, useRef, useState } from 'react';
import type { Json, Task } from './contract.js';
import { startOf } from './form/model.js';

export interface Typed {
  readonly data: Json;
  readonly set: (data: Json) => void;
  /** Differs from what the form began with, and from what the hub has. */
  readonly dirty: boolean;
  readonly saved: 'none' | 'saved' | 'failed';
  /** Saves at once. */
  readonly save: () => void;
  /** It was sent: nothing is kept any more. */
  readonly sent: () => void;
}

const everyMs = 2_000;

export function useTyped(
  task: Task,
  { isMine, save: saveAtHub }: { readonly isMine: boolean; readonly save: (data: Json) => Promise<unknown> },
): Typed {
  const place = placeOf(task.id);
  const [data, setData] = useState<Json>(() => kept(place) ?? task.draft ?? beginning(task));
  const [dirty, setDirty] = useState(() => kept(place) !== undefined);
  const [saved, setSaved] = useState<Typed['saved']>(task.draft === null ? 'none' : 'saved');
  const latest = useRef(data);

  const set = useCallback(
    (next: Json) => {
      latest.current = next;
      setData(next);
      setDirty(true);
      keep(place, next);
    },
    [place],
  );
  const sent = useCallback(() => {
    setDirty(false);
    keep(place, undefined);
  }, [place]);

  const save = useCallback(async () => {
    const sending = latest.current;
    try {
      await saveAtHub(sending);
      setSaved('saved');
      // What was typed meanwhile is saved the next time.
      if (latest.current === sending) sent();
    } catch {
      setSaved('failed');
    }
  }, [saveAtHub, sent]);

  useEffect(() => {
    if (!dirty || !isMine) return undefined;
    const timer = setInterval(() => void save(), everyMs);
    return () => clearInterval(timer);
  }, [dirty, isMine, save]);

  return { data, set, dirty, saved, save: () => void save(), sent };
}

const placeOf = (id: string): string => `answerback.typed.${id}`;

/** What a form begins with that is opened next: a decision that is taken back leaves what was filled in. */
export const keepTyped = (id: string, data: Json): void => keep(placeOf(id), data);

function beginning({ form }: Task): Json {
  try {
    return (form === null ? undefined : startOf(form, form)) ?? {};
  } catch {
    // A schema that cannot be read gets a box, which begins empty.
    return {};
  }
}

function kept(place: string): Json | undefined {
  try {
    const text = sessionStorage.getItem(place);
    return text === null ? undefined : (JSON.parse(text) as Json);
  } catch {
    return undefined;
  }
}

function keep(place: string, data: Json | undefined): void {
  try {
    if (data === undefined) sessionStorage.removeItem(place);
    else sessionStorage.setItem(place, JSON.stringify(data));
  } catch {
    // Without storage it lives as long as the page.
  }
}
