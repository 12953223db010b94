// Loaded into a process before all else (`node --import`): the clock on the wall is off by what the file FAULT_CLOCK says (ms), and
// jumps when that changes. What counts elapsed time (performance.now, timers) is not touched, as with a real clock.

import { readFileSync } from 'node:fs';

const RealDate = Date;
const file = process.env.FAULT_CLOCK ?? '';
const offset = () => Number(readFileSync(file, 'utf8'));
let offMs = offset();
setInterval(() => (offMs = offset()), 20).unref();

globalThis.Date = class extends RealDate {
  /** @param {any[]} args */
  constructor(...args) {
    if (args.length === 0) super(RealDate.now() + offMs);
    else super(.../** @type {[number]} */ (args));
  }
  static now() {
    return RealDate.now() + offMs;
  }
};
