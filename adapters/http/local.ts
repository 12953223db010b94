/**
 * Open on loopback means: everybody on this machine, not every web page that its browser shows. A page of another origin
 * can post here (CSRF) and, with a host name that it points to 127.0.0.1, read the answers (DNS rebinding).
 */
import type { IncomingHttpHeaders } from 'node:http';
import { isLoopback } from '../../broker/listening.js';
import { httpProblem, type Problem } from './problem.js';

/** What is wrong with a request that came to an open hub on loopback; undefined when nothing is. */
export function localOnly({ host, origin }: IncomingHttpHeaders): Problem | undefined {
  if (host !== undefined && !isLoopback(hostName(host))) {
    return httpProblem('misdirected', 'this hub has no authentication and answers only to localhost; set up principals, or open: true');
  }
  if (origin !== undefined && origin !== `http://${host}`)
    return httpProblem('cross-origin', 'this hub has no authentication and takes nothing from web pages of other origins');
  return undefined;
}

const hostName = (host: string): string => host.replace(/:\d*$/, '');
