/** Small things that every page is made of: banners, chips, times, dialogs, toasts. */
import { createContext, type ReactNode, useCallback, useContext, useEffect, useId, useRef, useState, useSyncExternalStore } from 'react';
import { hubNow } from './http.js';

interface BannerProps {
  readonly kind: 'problem' | 'note' | 'good';
  readonly children: ReactNode;
  readonly onClose?: () => void;
}

/** Said at once by screen readers when it is a problem. */
export function Banner({ kind, children, onClose }: BannerProps) {
  return (
    <div className={`banner ${kind}`} role={kind === 'problem' ? 'alert' : 'status'}>
      <span aria-hidden="true">{kind === 'problem' ? '▲' : kind === 'good' ? '✓' : 'ℹ'}</span>
      <div>{children}</div>
      {onClose !== undefined && (
        <button className="quiet" onClick={onClose} aria-label="Close this message">
          ×
        </button>
      )}
    </div>
  );
}

/** Shape and word for each state: colour alone says nothing. An unknown state is drawn with its own name. */
const states: Readonly<Record<string, readonly [shape: string, tone: string]>> = {
  open: ['○', 'plain'],
  claimed: ['◐', 'busy'],
  delegated: ['↪', 'busy'],
  decided: ['✓', 'good'],
  withdrawn: ['⊘', 'off'],
  expired: ['⌛', 'bad'],
  accepted: ['○', 'plain'],
  queued: ['○', 'plain'],
  running: ['▶', 'busy'],
  waiting: ['◔', 'busy'],
  answered: ['✓', 'good'],
  replied: ['✓', 'good'],
  failed: ['▲', 'bad'],
  faulted: ['▲', 'bad'],
  silent: ['◔', 'busy'],
  missing: ['▲', 'bad'],
  timeout: ['⌛', 'bad'],
  'timed-out': ['⌛', 'bad'],
  cancelled: ['⊘', 'off'],
};

export function Chip({ state, children }: { readonly state: string; readonly children?: ReactNode }) {
  const [shape, tone] = states[state] ?? ['·', 'plain'];
  return (
    <span className={`chip ${tone}`}>
      <span aria-hidden="true">{shape}</span> {children ?? state}
    </span>
  );
}

const tickers = new Set<() => void>();
let ticking: ReturnType<typeof setInterval> | undefined;
function onTick(tell: () => void): () => void {
  tickers.add(tell);
  ticking ??= setInterval(() => tickers.forEach((ticker) => ticker()), 1_000);
  return () => {
    tickers.delete(tell);
    if (tickers.size > 0) return;
    clearInterval(ticking);
    ticking = undefined;
  };
}

/** The hub's time, new each second. */
export function useNow(): number {
  return useSyncExternalStore(onTick, () => Math.floor(hubNow() / 1_000) * 1_000);
}

const relative = new Intl.RelativeTimeFormat('en', { numeric: 'auto' });
const steps = [
  [86_400_000, 'day'],
  [3_600_000, 'hour'],
  [60_000, 'minute'],
  [1_000, 'second'],
] as const;

/** `in 2 hours`, `yesterday`. */
export function distance(ms: number): string {
  const [size, unit] = steps.find(([size]) => Math.abs(ms) >= size) ?? steps[3];
  return relative.format(Math.round(ms / size), unit);
}

const absolute = new Intl.DateTimeFormat(undefined, { dateStyle: 'medium', timeStyle: 'short' });
export const clock = new Intl.DateTimeFormat(undefined, { timeStyle: 'medium' });

/** A time as people say it, with the exact one in the tooltip. */
export function When({ at }: { readonly at: string }) {
  const now = useNow();
  return (
    <time dateTime={at} title={absolute.format(new Date(at))}>
      {distance(Date.parse(at) - now)}
    </time>
  );
}

export function Due({ at }: { readonly at: string }) {
  const now = useNow();
  const left = Date.parse(at) - now;
  return (
    <span className={left < 0 ? 'bad' : left < 3_600_000 ? 'warn' : 'soft'}>
      {left < 0 ? 'overdue, was due ' : 'due '}
      <When at={at} />
    </span>
  );
}

/** Somebody holds the line for this answer: how long still. Nothing once the time is over. */
export function OnTheLine({ until }: { readonly until: number | null }) {
  const left = (until ?? 0) - useNow();
  if (left <= 0) return null;
  const seconds = Math.ceil(left / 1_000);
  const text = seconds < 60 ? `${seconds} s` : `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, '0')} min`;
  return (
    <span className={`line ${seconds <= 10 ? 'bad' : seconds <= 30 ? 'warn' : ''}`}>
      <span aria-hidden="true">☎</span> Someone is waiting on the line right now: <span role="timer">{text}</span> left
    </span>
  );
}

interface AskProps {
  readonly title: string;
  readonly children?: ReactNode;
  /** The words on the button that does it. */
  readonly action: string;
  readonly danger?: boolean;
  /** Does it; what it rejects with is shown, and the dialog stays. */
  readonly onDone: () => Promise<unknown>;
  readonly onClose: () => void;
}

/** A modal dialog with a form: Ctrl+Enter does it, Esc closes. */
export function Ask({ title, children, action, danger = false, onDone, onClose }: AskProps) {
  const dialog = useRef<HTMLDialogElement>(null);
  const heading = useId();
  const [problem, setProblem] = useState<string>();
  const [pending, setPending] = useState(false);
  useEffect(() => dialog.current?.showModal(), []);
  const submit = async () => {
    setPending(true);
    try {
      await onDone();
      onClose();
    } catch (error) {
      setProblem(error instanceof Error ? error.message : String(error));
      setPending(false);
    }
  };
  return (
    <dialog ref={dialog} aria-labelledby={heading} onClose={onClose}>
      <form
        className="stack"
        onSubmit={(event) => {
          event.preventDefault();
          void submit();
        }}
        onKeyDown={(event) => {
          if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) event.currentTarget.requestSubmit();
        }}
      >
        <h2 id={heading}>{title}</h2>
        {problem !== undefined && <Banner kind="problem">{problem}</Banner>}
        {children}
        <div className="actions">
          <button className={danger ? 'danger' : 'primary'} disabled={pending} aria-keyshortcuts="Control+Enter">
            {action}
          </button>
          <button type="button" onClick={() => dialog.current?.close()}>
            Cancel
          </button>
        </div>
      </form>
    </dialog>
  );
}

interface Toast {
  readonly text: string;
  /** What can be taken back, until when (ms, the hub's time). */
  readonly undo?: { readonly until: number; readonly do: () => Promise<unknown> };
}

const Toasts = createContext<(toast: Toast) => void>(() => undefined);
export const useToast = (): ((toast: Toast) => void) => useContext(Toasts);

/** Shows one message at a time at the edge of the page. Without an undo it stays for six seconds. */
export function ToastPlace({ children }: { readonly children: ReactNode }) {
  const [toast, setToast] = useState<(Toast & { readonly until: number }) | undefined>();
  const show = useCallback((next: Toast) => setToast({ ...next, until: next.undo?.until ?? hubNow() + 6_000 }), []);
  return (
    <Toasts value={show}>
      {children}
      <div className="toasts" role="status">
        {toast !== undefined && (
          <ToastLine key={`${toast.text}${toast.until}`} {...toast} onOver={() => setToast(undefined)} onFailed={show} />
        )}
      </div>
    </Toasts>
  );
}

function ToastLine({
  text,
  undo,
  until,
  onOver,
  onFailed,
}: Toast & { until: number; onOver: () => void; onFailed: (toast: Toast) => void }) {
  const left = Math.floor((until - useNow()) / 1_000);
  const over = left <= 0;
  useEffect(() => {
    if (over) onOver();
  }, [over, onOver]);
  const takeBack = async () => {
    onOver();
    await undo?.do().catch((error: unknown) => onFailed({ text: error instanceof Error ? error.message : String(error) }));
  };
  return (
    <div className="toast">
      {text}
      {undo !== undefined && (
        <button onClick={() => void takeBack()} data-key="u" aria-keyshortcuts="u" title="Key: u">
          Undo (<span aria-hidden="true">{Math.max(0, left)} s</span>)
        </button>
      )}
    </div>
  );
}
