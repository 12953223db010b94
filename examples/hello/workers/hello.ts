import { worker } from 'answerback';

export const hello = worker({
  name: 'hello',
  handle: ({ name }: { name: string }) => ({ greeting: `Hello, ${name}!` }),
});
