/** Debian's Chromium without a window, and what every page of ours must keep to. */
import { existsSync, readFileSync } from 'node:fs';
import { chromium, type Browser, type Page } from 'playwright-core';

/** Where Chromium is: `CHROMIUM` or where packages put it. */
function executable(): string {
  const found = [process.env['CHROMIUM'], '/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome'].find(
    (path) => path !== undefined && existsSync(path),
  );
  if (found === undefined) throw new Error('the browser tests need Chromium: apt-get install chromium, or set CHROMIUM to its path');
  return found;
}

export function launch(): Promise<Browser> {
  return chromium.launch({ executablePath: executable(), args: ['--no-sandbox', '--disable-dev-shm-usage', '--disable-gpu'] });
}

const axeSource = readFileSync('node_modules/axe-core/axe.min.js', 'utf8');

/** What we promise: WCAG 2.2 AA. */
const wcag = ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa'];

interface Findings {
  readonly violations: readonly {
    readonly id: string;
    readonly impact: string;
    readonly nodes: readonly { readonly html: string; readonly failureSummary: string }[];
  }[];
}

/** The serious and critical findings of axe on the page as it is. */
export async function axe(page: Page): Promise<readonly string[]> {
  // Evaluated by the debugger, which the page's policy does not bind.
  await page.evaluate(axeSource);
  const { violations } = await page.evaluate<Findings>(`axe.run(${JSON.stringify({ runOnly: wcag, resultTypes: ['violations'] })})`);
  return violations
    .filter(({ impact }) => impact === 'serious' || impact === 'critical')
    .flatMap(({ id, nodes }) => nodes.map(({ html, failureSummary }) => `${id}: ${html} ${failureSummary}`));
}

/** Everything that the page complains of: errors, and what its policy forbade. */
export function complaints(page: Page): string[] {
  const said: string[] = [];
  page.on('pageerror', (error) => said.push(error.message));
  page.on('console', (message) => {
    // The browser itself reports refused requests; those are part of the tests.
    if (message.type() === 'error' && !/Failed to load resource/.test(message.text())) said.push(message.text());
  });
  return said;
}
