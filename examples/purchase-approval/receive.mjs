// The requestor's side of a callback: takes one that is signed with its secret (Standard Webhooks), prints what was answered, and ends. One that is not
// genuine gets 401, and the hub tries again. Run it before you ask: node examples/purchase-approval/receive.mjs
import { createHmac, timingSafeEqual } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { join } from 'node:path';

const secret = readFileSync(join(import.meta.dirname, 'secrets/desk.demo'), 'utf8').trim();
const key = Buffer.from(secret.replace('whsec_', ''), 'base64');

/** @param {import('node:http').IncomingHttpHeaders} headers @param {Buffer} body */
function isGenuine(headers, body) {
  const stamp = headers['webhook-timestamp'];
  if (Math.abs(Date.now() / 1_000 - Number(stamp)) > 300) return false;
  const expected = createHmac('sha256', key).update(`${headers['webhook-id']}.${stamp}.`).update(body).digest();
  return String(headers['webhook-signature'])
    .split(' ')
    .map((signature) => Buffer.from(signature.replace('v1,', ''), 'base64'))
    .some((signature) => signature.length === expected.length && timingSafeEqual(signature, expected));
}

const server = createServer((request, response) => {
  /** @type {Buffer[]} */
  const chunks = [];
  request.on('data', (chunk) => chunks.push(chunk));
  request.on('end', () => {
    const body = Buffer.concat(chunks);
    if (!isGenuine(request.headers, body)) return response.writeHead(401).end();
    console.log(request.headers['hub-state'], body.toString());
    response.writeHead(204, { connection: 'close' }).end();
    server.close();
  });
});
server.listen(9876, '127.0.0.1');
