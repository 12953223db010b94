// Writes a mail to outbox/ for each task that is made, escalated, or soon due: what a mail gateway would send. The mail carries a link to the
// task and nothing that decides: scanners follow links. Run it beside the hub: node examples/purchase-approval/mail.mjs [address of the hub]
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';

const hub = process.argv[2] ?? 'http://localhost:8080';
const outbox = join(import.meta.dirname, 'outbox');
const says = { 'tasks.created': 'To decide', 'tasks.reminded': 'Reminder', 'tasks.escalated': 'Escalated to you' };

const response = await fetch(`${hub}/events/tasks.*`, { headers: { accept: 'text/event-stream' } });
if (!response.ok || response.body === null) throw new Error(`${hub} answers ${response.status}`);
console.log(`Mails go to ${outbox}`);
let text = '';
const decoder = new TextDecoder();
for await (const chunk of response.body) {
  text += decoder.decode(chunk, { stream: true });
  for (let end = text.indexOf('\n\n'); end >= 0; end = text.indexOf('\n\n')) {
    const data = /^data: (.*)$/m.exec(text.slice(0, end))?.[1];
    text = text.slice(end + 2);
    if (data !== undefined) mail(JSON.parse(data));
  }
}

/** @param {{ topic: string, at: string, data: { id: string, title: string, candidates: { groups: string[] }, dueAt: string } }} event */
function mail({ topic, at, data: { id, title, candidates, dueAt } }) {
  const subject = says[/** @type {keyof typeof says} */ (topic)];
  if (subject === undefined) return;
  const lines = [
    `To: ${candidates.groups.map((group) => `${group}@example.org`).join(', ')}`,
    `Subject: ${subject}: ${title}`,
    `Date: ${new Date(at).toUTCString()}`,
    'Content-Type: text/plain; charset=utf-8',
    '',
    `${title}, due ${dueAt}.`,
    '',
    `Look at it and decide: ${hub}/inbox/${id}`,
  ];
  const file = join(outbox, `${topic.replace('tasks.', '')}-${id}.eml`);
  writeFileSync(file, `${lines.join('\r\n')}\r\n`);
  console.log(file);
}
