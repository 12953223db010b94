/** The steps of a search: offers as they are found, and the first two of three airlines. */
import { setTimeout as pause } from 'node:timers/promises';
import { aggregator, Fault, split, worker } from 'answerback';

interface Trip {
  readonly from: string;
  readonly to: string;
  readonly days: number;
}

interface Offer {
  readonly airline: string;
  readonly price: number;
}

const airlines = [
  { name: 'fjord', afterMs: 50, price: 220 },
  { name: 'tagus', afterMs: 150, price: 180 },
  { name: 'snail', afterMs: 5_000, price: 90 },
] as const;

/** Everything that this process was told to stop: for the test of this example, and for the log. */
export const stopped: string[] = [];

/** Shows each offer as soon as it is there. */
export const offers = worker<Trip>({
  name: 'travel.offers',
  summary: 'Searches for offers',
  async *handle(trip): AsyncGenerator<Offer> {
    for (const { name, afterMs, price } of airlines.slice(0, 2)) {
      await pause(afterMs);
      yield { airline: name, price: price + trip.days };
    }
  },
});

export const asked = worker<Trip>({
  name: 'travel.ask',
  summary: 'Searches to be handed to the airlines',
  handle: (trip) => split(airlines.map(({ name }) => ({ name, body: trip, steps: [`airline.${name}`] }))),
});

const airline = ({ name, afterMs, price }: (typeof airlines)[number]) =>
  worker<Trip>({
    name: `airline.${name}`,
    summary: `Searches on their way to ${name}`,
    async handle({ days }, _envelope, { signal }): Promise<Offer> {
      signal.addEventListener('abort', () => stopped.push(name));
      await pause(afterMs, undefined, { signal });
      return { airline: name, price: price + days };
    },
  });

export const fjord = airline(airlines[0]);
export const tagus = airline(airlines[1]);
export const snail = airline(airlines[2]);

export const best = aggregator<Offer>({
  name: 'travel.best',
  summary: 'Offers on their way together',
  atLeast: 2,
  timeout: '20s',
  combine(answers, { missing }) {
    const [cheapest] = answers.map(({ body }) => body).sort((a, b) => a.price - b.price);
    if (cheapest === undefined) throw new Fault('unavailable', 'no airline has answered');
    return { best: cheapest, asked: answers.length + missing.length, notWaitedFor: missing };
  },
});

/** Of all trips together. Whether they came in one request or in parts of one, it cannot tell. */
export const journey = worker<readonly Trip[]>({
  name: 'travel.journey',
  summary: 'Journeys to be priced',
  handle: (trips) => ({ trips: trips.length, price: trips.reduce((sum, { days }) => sum + airlines[1].price + days, 0) }),
});
