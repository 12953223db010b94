/** The one list of benchmarks, in the order in which they run. */
import type { Case } from './case.js';
import { http } from './http.js';
import { oneProcess } from './one-process.js';
import { requestReply } from './request-reply.js';
import { scatter } from './scatter.js';

export const cases: readonly Case[] = [requestReply, http, scatter, oneProcess];
