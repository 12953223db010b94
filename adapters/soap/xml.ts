/**
 * XML from strangers: no DOCTYPE (so no entities of theirs), bounded depth and number of elements, only characters that XML
 * allows. And back: text that cannot break out of its element.
 */
import sax from 'sax';

export interface Element {
  /** Namespace; empty for none. */
  readonly uri: string;
  readonly name: string;
  /** By local name, or `{namespace}local`. */
  readonly attributes: ReadonlyMap<string, string>;
  readonly children: readonly Element[];
  /** Its own text, with nothing trimmed. */
  readonly text: string;
}

/** This is no XML that is taken; the message says why and may be shown to the sender. */
export class XmlError extends Error {}

export interface XmlLimits {
  readonly depth: number;
  readonly elements: number;
}

const defaultLimits: XmlLimits = { depth: 64, elements: 50_000 };
const maxAttributes = 100;
/** Namespaces in scope, summed over the elements that declare some: the work that declaring is. */
const maxCopied = 500_000;

/** Namespaces by prefix; empty: the default one. */
type Scope = ReadonlyMap<string, string>;

interface Building extends Pick<Element, 'uri' | 'name' | 'attributes'> {
  readonly scope: Scope;
  readonly children: Element[];
  readonly texts: string[];
}

/** Namespaces are resolved here: sax takes seconds for a megabyte of attributes or of namespaces when it does it itself. */
export function parseXml(text: string, limits = defaultLimits): Element {
  refuseDoctype(text);
  checkCharacters(text);
  const open: Building[] = [];
  let attributes: (readonly [name: string, value: string])[] = [];
  let elements = 0;
  let copied = 0;
  let root: Element | undefined;
  const parser = sax.parser(true, { xmlns: false, strictEntities: true });
  parser.onerror = (error) => refuse(`this is not well-formed XML: ${error.message.split('\n')[0]}`);
  parser.ondoctype = parser.onsgmldeclaration = () => refuse('a DOCTYPE is not accepted');
  parser.onattribute = ({ name, value }) => {
    if (attributes.push([name, checkCharacters(value)]) > maxAttributes) refuse(`an element has more than ${maxAttributes} attributes`);
  };
  parser.onopentag = ({ name }) => {
    if (open.length >= limits.depth) refuse(`the elements are nested deeper than ${limits.depth}`);
    if (++elements > limits.elements) refuse(`there are more than ${limits.elements} elements`);
    const around = open.at(-1)?.scope ?? outside;
    const scope = scopeOf(attributes, around);
    if (scope !== around && (copied += scope.size) > maxCopied) refuse('there are too many namespaces');
    const plain = attributes
      .filter(([attribute]) => !/^xmlns(?::|$)/.test(attribute))
      .map(([attribute, value]) => [attributeKey(attribute, scope), value] as const);
    const { prefix, local } = split(name);
    open.push({ uri: uriOf(prefix, scope), name: local, attributes: new Map(plain), scope, children: [], texts: [] });
    attributes = [];
  };
  parser.ontext = parser.oncdata = (part) => void open.at(-1)?.texts.push(checkCharacters(part));
  parser.onclosetag = () => {
    const { texts, scope: _scope, ...rest } = open.pop()!;
    const element = { ...rest, text: texts.join('') };
    const parent = open.at(-1);
    if (parent === undefined) root = element;
    else parent.children.push(element);
  };
  parser.write(text).close();
  return root ?? refuse('there is no element');
}

function refuse(why: string): never {
  throw new XmlError(why);
}

const outside: Scope = new Map([
  ['', ''],
  ['xml', 'http://www.w3.org/XML/1998/namespace'],
]);

function scopeOf(attributes: readonly (readonly [string, string])[], parent: Scope): Scope {
  const declared = attributes.flatMap(([name, uri]) =>
    name === 'xmlns' ? [['', uri] as const] : name.startsWith('xmlns:') ? [[name.slice(6), uri] as const] : [],
  );
  if (declared.length === 0) return parent;
  return new Map([...parent, ...declared]);
}

function split(name: string): { readonly prefix: string; readonly local: string } {
  const [, prefix = '', local] = /^(?:([^:]+):)?([^:]+)$/.exec(name) ?? [];
  return { prefix, local: local ?? refuse('a name has a colon too many') };
}

const uriOf = (prefix: string, scope: Scope): string => scope.get(prefix) ?? refuse(`the namespace prefix ${prefix} is not declared`);

/** Attributes without a prefix are in no namespace. */
function attributeKey(name: string, scope: Scope): string {
  const { prefix, local } = split(name);
  return prefix === '' ? local : `{${uriOf(prefix, scope)}}${local}`;
}

/** A DOCTYPE can only stand before the first element, among comments and processing instructions. */
function refuseDoctype(text: string): void {
  const space = /[\s\ufeff]*/y;
  for (let at = 0; ;) {
    space.lastIndex = at;
    space.test(text);
    at = space.lastIndex;
    const [end, length] = text.startsWith('<?', at) ? ['?>', 2] : text.startsWith('<!--', at) ? ['-->', 3] : ['', 0];
    if (end === '') {
      if (text.startsWith('<!', at)) refuse('a DOCTYPE is not accepted');
      return;
    }
    const found = text.indexOf(end, at);
    if (found < 0) return; // Not well-formed: the parser says where.
    at = found + length;
  }
}

// eslint-disable-next-line no-control-regex -- These are what it looks for.
const notXml = /[\u0000-\u0008\u000b\u000c\u000e-\u001f\ufffe\uffff]/g;

function checkCharacters(text: string): string {
  notXml.lastIndex = 0;
  return notXml.test(text) ? refuse('there are characters that XML does not allow') : text;
}

const charsets = new Set(['utf-8', 'utf8', 'us-ascii', 'ascii', 'iso-8859-1', 'latin1', 'windows-1252', 'utf-16', 'utf-16le', 'utf-16be']);

/** The characters of an XML document: as its transport says, else as its first bytes say, else UTF-8. */
export function decodeXml(bytes: Buffer, contentType: string): string {
  const said =
    /;\s*charset\s*=\s*"?([\w.:-]+)/i.exec(contentType)?.[1] ??
    markedAs(bytes) ??
    /^<\?xml[^>]*?\sencoding\s*=\s*["']([\w.:-]+)["']/.exec(bytes.subarray(0, 200).toString('latin1'))?.[1] ??
    'utf-8';
  const charset = said.toLowerCase();
  if (!charsets.has(charset)) refuse(`the character set ${said} is not known here: send UTF-8`);
  try {
    return new TextDecoder(charset === 'utf-16' ? (markedAs(bytes) ?? 'utf-16be') : charset, { fatal: true }).decode(bytes);
  } catch {
    return refuse(`the bytes are not ${said}`);
  }
}

function markedAs(bytes: Buffer): string | undefined {
  if (bytes[0] === 0xfe && bytes[1] === 0xff) return 'utf-16be';
  if (bytes[0] === 0xff && bytes[1] === 0xfe) return 'utf-16le';
  return bytes[0] === 0xef && bytes[1] === 0xbb && bytes[2] === 0xbf ? 'utf-8' : undefined;
}

const entities: Readonly<Record<string, string>> = {
  '&': '&amp;',
  '<': '&lt;',
  '>': '&gt;',
  '"': '&quot;',
  '\r': '&#13;',
  '\t': '&#9;',
  '\n': '&#10;',
};

/** Text for between tags. What XML cannot carry becomes U+FFFD. */
export const escapeText = (text: string): string => text.replace(notXml, '\ufffd').replace(/[&<>\r]/g, (character) => entities[character]!);

/** Text for between double quotes. */
export const escapeAttribute = (text: string): string =>
  text.replace(notXml, '\ufffd').replace(/[&<>"\r\n\t]/g, (character) => entities[character]!);
