/** The one list of adapters. A new one is its file, and its line here. */
import type { Adapter } from '../broker/adapter.js';
import { file } from './file.js';
import { http } from './http/index.js';
import { rest } from './rest.js';
import { soap } from './soap/index.js';

export const adapters: readonly Adapter<never>[] = [http, file, soap, rest];
