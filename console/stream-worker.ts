/** The shared worker: has the browser's one event stream, and tells every tab. It ends with the last tab. */
import { channelName, readStream, type News, type Wish } from './stream.js';

const channel = new BroadcastChannel(channelName);
const tell = (news: News): void => channel.postMessage(news);
const stream = readStream(tell);
channel.addEventListener('message', ({ data }: MessageEvent<Wish | News>) => {
  if (typeof data === 'string') stream.wish(data);
});
