/**
 * A process that takes files and never answers, for tests that kill it: `node --import tsx file-hub.mjs <folder>`. Prints
 * the idempotency key of each file that it asks for.
 */
import { file } from '../../adapters/file.ts';

const flow = { name: 'work', steps: ['work'], durable: true };
const gateway = {
  flows: [flow],
  request({ idempotencyKey }) {
    console.log(idempotencyKey);
    return new Promise(() => undefined);
  },
};
const settings = {
  folder: process.argv[2],
  flow: 'work',
  principal: '',
  oneWay: false,
  wait: 60_000,
  poll: 20,
  stable: 40,
  lease: 400,
  maxSize: 10_000,
  concurrency: 50,
};
await file.open(settings, {
  gateway,
  access: { required: false },
  projectFolder: '/',
  log: () => undefined,
  stopping: new AbortController().signal,
});
console.log('open');
