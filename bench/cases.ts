/** The one list of benchmarks, in the order in which they run. */
import type { Case } from './case.js';
import { requestReply } from './request-reply.js';

export const cases: readonly Case[] = [requestReply];
