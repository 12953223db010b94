/**
 * The keyboard. A shortcut presses a button that can be seen (`data-key`), in the place that has the focus first
 * (`data-keys`), then in the open task, then anywhere. Single keys are off inside inputs, and can be switched off.
 */
import { useEffect, useRef, useState } from 'react';

const setting = 'answerback.keys';
const singleKeysOn = (): boolean => read() !== 'off';
function read(): string | null {
  try {
    return localStorage.getItem(setting);
  } catch {
    return null;
  }
}

const shortcuts: readonly (readonly [keys: string, what: string])[] = [
  ['j / k', 'next / previous task'],
  ['Enter', 'open the task'],
  ['Esc', 'leave the field, then the task'],
  ['/', 'search'],
  ['c', 'claim or return'],
  ['a', 'approve: the main button'],
  ['r', 'reject: the red button'],
  ['d', 'delegate'],
  ['m', 'comment'],
  ['u', 'undo the last decision'],
  ['x / Shift+x', 'select / select up to here'],
  ['Ctrl+Enter', 'send the form that you are in'],
  ['?', 'this list'],
];

const writing = (target: EventTarget | null): boolean =>
  target instanceof HTMLElement && (target.isContentEditable || /^(INPUT|TEXTAREA|SELECT)$/.test(target.tagName)) && !isTick(target);
/** Boxes to tick take no letters. */
const isTick = (target: HTMLElement): boolean => target instanceof HTMLInputElement && /^(checkbox|radio)$/.test(target.type);

const shown = (element: HTMLElement): boolean => element.getClientRects().length > 0;

function buttonFor(key: string): HTMLElement | undefined {
  const wanted = `[data-key="${CSS.escape(key)}"]`;
  const places = [document.activeElement?.closest('[data-keys]'), document.querySelector('[data-keys="task"]'), document];
  for (const place of places) {
    const found = [...(place?.querySelectorAll<HTMLElement>(wanted) ?? [])].filter(
      (element) => shown(element) && (place !== document || element.closest('[data-keys="row"]') === null),
    );
    if (found[0] !== undefined) return found[0];
  }
  return undefined;
}

/** Moves the focus along the rows of the list; from outside of it to the row that is open, or the first. */
function step(by: 1 | -1): void {
  const rows = [...document.querySelectorAll<HTMLElement>('[data-row]')].filter(shown);
  const at = rows.findIndex((row) => row.closest('[data-keys]')?.contains(document.activeElement));
  const open = rows.findIndex((row) => row.getAttribute('aria-current') === 'page');
  const next = at >= 0 ? at + by : open >= 0 ? open + by : 0;
  rows[Math.min(rows.length - 1, Math.max(0, next))]?.focus();
}

export function useKeys(): void {
  useEffect(() => {
    const press = (event: KeyboardEvent) => {
      if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || document.querySelector('dialog[open]') !== null)
        return;
      const { key, target } = event;
      if (key === 'Escape' && writing(target)) return (target as HTMLElement).blur();
      if (key === 'Escape') return buttonFor('Escape')?.click();
      if (writing(target) || !singleKeysOn() || key.length !== 1) return;
      if (key === 'j' || key === 'k') step(key === 'j' ? 1 : -1);
      else {
        const button = buttonFor(key === 'X' ? 'x' : key);
        if (button === undefined) return;
        if (writing(button)) button.focus();
        else button.dispatchEvent(new MouseEvent('click', { bubbles: true, cancelable: true, shiftKey: key === 'X' }));
      }
      event.preventDefault();
    };
    document.addEventListener('keydown', press);
    return () => document.removeEventListener('keydown', press);
  }, []);
}

/** The button for, and the list of, the shortcuts. */
export function KeysHelp() {
  const dialog = useRef<HTMLDialogElement>(null);
  const [on, setOn] = useState(singleKeysOn);
  const set = (wanted: boolean) => {
    localStorage.setItem(setting, wanted ? 'on' : 'off');
    setOn(wanted);
  };
  return (
    <>
      <button
        className="quiet"
        data-key="?"
        aria-keyshortcuts="?"
        title="Keyboard shortcuts (?)"
        onClick={() => dialog.current?.showModal()}
      >
        Keys
      </button>
      <dialog ref={dialog} aria-labelledby="keys">
        <h2 id="keys">Keyboard shortcuts</h2>
        <table className="keys">
          <tbody>
            {shortcuts.map(([keys, what]) => (
              <tr key={keys}>
                <th scope="row">
                  <kbd>{keys}</kbd>
                </th>
                <td>{what}</td>
              </tr>
            ))}
          </tbody>
        </table>
        <label className="tick">
          <input type="checkbox" checked={on} onChange={(event) => set(event.target.checked)} /> Shortcuts of a single key are on
        </label>
        <form method="dialog" className="actions">
          <button>Close</button>
        </form>
      </dialog>
    </>
  );
}
