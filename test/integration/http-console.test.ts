import { mkdtemp, mkdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { fastify } from 'fastify';
import { consoleHandlers, pageOfRequest } from '../../adapters/http/console.js';
import { rawly, serve, type Served } from './http-server.js';

let served: Served;
beforeAll(async () => {
  served = await serve();
});
afterAll(() => served?.close());

const html = { headers: { accept: 'text/html,application/xhtml+xml,*/*;q=0.8' } };

describe('the console over HTTP', () => {
  it('gives its page for every address below /inbox, under a policy that forbids inline code', async () => {
    for (const path of ['/inbox', '/inbox/', '/inbox/0189-task?view=due', '/inbox/away']) {
      const response = await served.fetch(path, html);
      expect(response.status).toBe(200);
      expect(response.headers.get('content-type')).toBe('text/html; charset=utf-8');
      expect(response.headers.get('content-security-policy')).toMatch(/^default-src 'self';/);
      expect(response.headers.get('content-security-policy')).not.toMatch(/unsafe|data:|\*/);
      expect(response.headers.get('cache-control')).toBe('no-cache');
      const page = await response.text();
      expect(page).toContain('<div id="page">');
      expect(page).not.toMatch(/<script(?![^>]*src=)|<style|\son\w+=|style=/);
    }
  });

  it('lets browsers keep hashed files for ever, and ask for the others again', async () => {
    const page = await (await served.fetch('/inbox', html)).text();
    const script = /src="(\/inbox\/assets\/[^"]+\.js)"/.exec(page)![1]!;
    const response = await served.fetch(script);
    expect(response.headers.get('cache-control')).toBe('public, max-age=31536000, immutable');
    expect(response.headers.get('content-type')).toBe('text/javascript; charset=utf-8');
    expect(response.headers.get('content-encoding')).toBe('gzip');
    const plain = await served.fetch(script, { headers: { 'accept-encoding': 'identity' } });
    expect(plain.headers.get('content-encoding')).toBeNull();
    expect(await plain.text()).toBe(await response.text());

    const theme = await served.fetch('/inbox/theme.js');
    expect(theme.headers.get('cache-control')).toBe('no-cache');
    const again = await served.fetch('/inbox/theme.js', { headers: { 'if-none-match': theme.headers.get('etag')! } });
    expect(again.status).toBe(304);
  });

  it('has no file that the build did not make, and nothing outside of the folder', async () => {
    for (const path of [
      '/inbox/assets/none.js',
      '/inbox/package.json',
      '/inbox/assets/',
      '/inbox/%2e%2e/index.js',
      '/inbox/..%2f..%2fpackage.json',
    ])
      expect(await (await served.fetch(path)).json()).toMatchObject({ status: 404 });
    for (const path of ['/inbox/../main.js', '/inbox/assets/../../main.js', '/inbox//etc/passwd.js'])
      expect(await rawly(served.port, `GET ${path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n`)).toMatch(/^HTTP\/1.1 404/);
    expect((await served.fetch('/inbox', { method: 'POST' })).status).toBe(405);
  });

  it('shows a request to people, and its status to programs', async () => {
    const asked = await served.fetch('/requests/slow', { json: {}, headers: { prefer: 'respond-async' } });
    const location = asked.headers.get('location')!;
    expect((await served.fetch(location, html)).headers.get('content-type')).toBe('text/html; charset=utf-8');
    expect(await (await served.fetch(location)).json()).toMatchObject({ flow: 'slow' });
    expect(await (await served.fetch(location, { headers: { accept: 'application/json' } })).json()).toMatchObject({ flow: 'slow' });
    expect((await served.fetch(`${location}/reply`, html)).headers.get('content-type')).not.toContain('html');
    await served.fetch(location, { method: 'DELETE' });
  });

  it('says how to build it when it is not there', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'console-'));
    const app = fastify();
    app.get('/inbox', consoleHandlers(join(folder, 'none')).page);
    expect((await app.inject('/inbox')).json()).toMatchObject({ status: 404, detail: 'the console is not built: run `npm run build`' });
    await rm(folder, { recursive: true });
  });

  it('serves no file of an unknown kind', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'console-'));
    await mkdir(join(folder, 'assets'));
    await writeFile(join(folder, 'index.html'), '<p>here');
    await writeFile(join(folder, 'assets', 'a.map'), '{}');
    const app = fastify();
    app.get('/inbox/*', consoleHandlers(folder).file);
    expect((await app.inject('/inbox/')).body).toBe('<p>here');
    expect((await app.inject('/inbox/assets/a.map')).statusCode).toBe(404);
    await rm(folder, { recursive: true });
  });
});

describe('the address of a request', () => {
  const at = (url: string, { method = 'GET', accept = 'text/html' } = {}) => pageOfRequest({ method, url, headers: { accept } });
  it('leads people to its page, and nothing else anywhere else', () => {
    expect(at('/requests/0189?x=1')).toBe('/inbox/requests/0189');
    for (const url of ['/requests/', '/requests/0189/reply', '/requests/0189/story', '/', '/inbox']) expect(at(url)).toBe(url);
    expect(at('/requests/loan.quote', { method: 'POST' })).toBe('/requests/loan.quote');
    expect(at('/requests/0189', { accept: '*/*' })).toBe('/requests/0189');
  });
});
