/** The one list of benchmarks, in the order in which they run. */
import { breakdown } from './breakdown.js';
import { callbacks } from './callbacks.js';
import type { Case } from './case.js';
import { flat } from './flat.js';
import { held } from './held.js';
import { http } from './http.js';
import { memory } from './memory.js';
import { oneProcess } from './one-process.js';
import { peersCase } from './peers.js';
import { overload } from './overload.js';
import { pending } from './pending.js';
import { requestReply } from './request-reply.js';
import { scatter } from './scatter.js';
import { tasks } from './tasks.js';
import { timers } from './timers.js';
import { watchers } from './watchers.js';

export const cases: readonly Case[] = [
  requestReply,
  http,
  scatter,
  oneProcess,
  memory,
  timers,
  breakdown,
  flat,
  peersCase,
  held,
  overload,
  pending,
  tasks,
  watchers,
  callbacks,
];
