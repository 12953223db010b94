/** The part of sax (which npm `soap` brings) that `xml.ts` uses; it has no types of its own. */
declare module 'sax' {
  interface SaxAttribute {
    readonly name: string;
    readonly prefix: string;
    readonly local: string;
    readonly uri: unknown;
    readonly value: string;
  }
  interface SaxTag {
    readonly prefix: string;
    readonly local: string;
    readonly uri: unknown;
    readonly attributes: Readonly<Record<string, SaxAttribute>>;
  }
  interface SaxParser {
    onerror: (error: Error) => void;
    ondoctype: () => void;
    onsgmldeclaration: () => void;
    onopentag: (tag: SaxTag) => void;
    onclosetag: () => void;
    ontext: (text: string) => void;
    oncdata: (text: string) => void;
    write(text: string): SaxParser;
    close(): SaxParser;
  }
  const sax: { parser(strict: boolean, options: { readonly xmlns: boolean; readonly strictEntities: boolean }): SaxParser };
  // eslint-disable-next-line no-restricted-syntax -- That is how sax exports it.
  export default sax;
}
