/** The part of sax (which npm `soap` brings) that `xml.ts` uses; it has no types of its own. */
declare module 'sax' {
  interface SaxParser {
    onerror: (error: Error) => void;
    ondoctype: () => void;
    onsgmldeclaration: () => void;
    onattribute: (attribute: { readonly name: string; readonly value: string }) => void;
    onopentag: (tag: { readonly name: string }) => void;
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
