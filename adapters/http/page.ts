/** The page at `/`: what this hub is, its flows with a ready curl, and where the rest is. No script, nothing from outside. */
import { createHash } from 'node:crypto';
import type { Flow } from '../../broker/flow.js';

export const links = {
  openapi: '/openapi.json',
  asyncapi: '/asyncapi.json',
  ready: '/health/ready',
  live: '/health/live',
  metrics: '/metrics',
} as const;

const style = `
:root { color-scheme: light dark; --line: #8884; --soft: #8882; --accent: #0b6bcb }
@media (prefers-color-scheme: dark) { :root { --accent: #6cb6ff } }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 50rem; margin: 3rem auto; padding: 0 1.25rem }
h1 { margin: 0; font-size: 1.75rem } h2 { margin: 2.5rem 0 .5rem; font-size: 1.1rem }
p { margin: .25rem 0 } a { color: var(--accent) }
nav a { margin-right: 1rem }
article { border-top: 1px solid var(--line); padding: .75rem 0 }
article b { font: 600 1rem ui-monospace, monospace } .steps { opacity: .75; font-size: .875rem }
pre { background: var(--soft); padding: .6rem .8rem; border-radius: .4rem; overflow-x: auto; font-size: .8125rem; margin: .5rem 0 0 }
footer { margin-top: 3rem; opacity: .65; font-size: .875rem }`;

/** Only this page's own style may run. */
export const pagePolicy = `default-src 'none'; style-src 'sha256-${createHash('sha256').update(style).digest('base64')}'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'`;

export function page({
  flows,
  version,
  origin,
}: {
  readonly flows: readonly Flow[];
  readonly version: string;
  readonly origin: string;
}): string {
  return `<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Answerback</title><style>${style}</style>
<h1>Answerback</h1>
<p>Ask here; the answer finds its way back.</p>
<nav>${Object.entries(links)
    .map(([name, path]) => `<a href="${path}">${name}</a>`)
    .join('')}</nav>
<h2>${flows.length === 1 ? '1 flow' : `${flows.length} flows`}</h2>
${flows.map((flow) => section(flow, origin)).join('\n')}
<footer>version ${escape(version)}</footer>
</html>
`;
}

function section(flow: Flow, origin: string): string {
  return `<article><b>${escape(flow.name)}</b>
<p>${escape(flow.summary ?? '')}</p>
<p class="steps">${escape(flow.steps.join(' → '))}</p>
<pre>${escape(curl(flow, origin))}</pre></article>`;
}

/** One line to paste into a shell that asks for this flow. */
export function curl(flow: Flow, origin: string): string {
  const body =
    flow.example === undefined ? '' : ` -H 'content-type: application/json' -d '${JSON.stringify(flow.example).replaceAll("'", `'\\''`)}'`;
  return `curl -i${body === '' ? ' -X POST' : ''} ${origin}/requests/${encodeURIComponent(flow.name)}${body}`;
}

const escape = (text: string): string => text.replace(/[&<>"']/g, (c) => `&#${c.charCodeAt(0)};`);
