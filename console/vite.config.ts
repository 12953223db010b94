/** How the pages become dist/console/: hashed files under /inbox/, nothing inline, so that the hub's policy may forbid inline code. */
import { defineConfig } from 'vite';

// Vite looks for a default export.
// eslint-disable-next-line no-restricted-syntax
export default defineConfig({
  root: import.meta.dirname,
  base: '/inbox/',
  build: {
    outDir: '../dist/console',
    emptyOutDir: true,
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    target: ['chrome123', 'firefox121', 'safari17.5'],
  },
  worker: { format: 'es' },
});
