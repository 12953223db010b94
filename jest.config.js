/** ESM throughout; swc strips the types (tsc checks them); services come from scripts/test.mjs. */
export default {
  testMatch: ['<rootDir>/test/**/*.test.ts'],
  extensionsToTreatAsEsm: ['.ts'],
  moduleNameMapper: { '^(\\.{1,2}/.*)\\.js$': '$1', '^answerback$': '<rootDir>/index.ts', '^answerback/testing$': '<rootDir>/testing.ts' },
  modulePathIgnorePatterns: ['<rootDir>/dist', '<rootDir>/.hub'],
  transform: {
    '^.+\\.ts$': ['@swc/jest', { jsc: { parser: { syntax: 'typescript' }, target: 'es2022' }, module: { type: 'es6' } }],
  },
  testSequencer: '<rootDir>/test/support/slowest-first.js',
  testTimeout: 30_000,
  // More than a fresh machine has cores: most tests wait for services most of the time.
  maxWorkers: 3,
  workerIdleMemoryLimit: '1GB',
};
