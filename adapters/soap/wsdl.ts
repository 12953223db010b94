/**
 * The flows as SOAP operations, document/literal wrapped, and the WSDL that describes them: one operation per flow, named
 * after it, and `Collect` for answers that take longer than a call is held.
 */
import type { Flow } from '../../broker/flow.js';
import { shapeOf, type Field, type Shape } from './shape.js';
import { escapeAttribute, escapeText } from './xml.js';

/** How a body becomes the children of an operation's element, and back. */
export type Content =
  /** The schema is an object: its properties are the children. */
  | { readonly kind: 'fields'; readonly fields: readonly Field[] }
  /** The schema is anything else: one child `value` is the body. */
  | { readonly kind: 'value'; readonly fields: readonly [Field] }
  /** There is no schema: `contentType` and `value`, text as it is, bytes as base64. */
  | { readonly kind: 'free' };

export interface Operation {
  /** `LoanQuote`: the request's element; the reply's is `LoanQuoteResponse`. */
  readonly name: string;
  readonly flow: Flow;
  readonly request: Content;
  readonly reply: Content;
}

export const collect = 'Collect';

/** Throws when two flows would be the same operation. */
export function operationsOf(flows: readonly Flow[]): readonly Operation[] {
  const byName = new Map<string, Flow>();
  return flows.map((flow) => {
    const name = pascalCase(flow.name);
    const other = byName.get(name);
    if (other !== undefined)
      throw new Error(`flows ${other.name} and ${flow.name} would both be the SOAP operation ${name}: choose one with adapters.soap.flows`);
    if (name === collect || name === `${collect}Response` || name === 'RequestFault')
      throw new Error(
        `flow ${flow.name} would be the SOAP operation ${name}, which has a meaning of its own: choose others with adapters.soap.flows`,
      );
    byName.set(name, flow);
    return { name, flow, request: contentOf(flow.request), reply: contentOf(flow.reply) };
  });
}

function contentOf(schema: Flow['request']): Content {
  if (schema === undefined) return { kind: 'free' };
  const shape = shapeOf(schema);
  if (shape.kind === 'object') return { kind: 'fields', fields: shape.fields };
  return { kind: 'value', fields: [{ name: 'value', element: 'value', shape, required: true, nillable: false }] };
}

/** `loan.quote` → `LoanQuote`. */
function pascalCase(name: string): string {
  const words = name.split(/[^\p{L}\p{N}]+/u).filter((word) => word !== '');
  const joined = words.map((word) => word[0]!.toUpperCase() + word.slice(1)).join('');
  return /^\p{L}/u.test(joined) ? joined : `_${joined}`;
}

export interface WsdlOptions {
  readonly namespace: string;
  /** Where the service is. */
  readonly address: string;
}

export function wsdlOf(operations: readonly Operation[], { namespace, address }: WsdlOptions): string {
  const names = [...operations.map(({ name }) => name), collect];
  const binding = (version: 'soap' | 'soap12') => `
  <wsdl:binding name="Hub_${version}" type="tns:Hub">
    <${version}:binding style="document" transport="http://schemas.xmlsoap.org/soap/http"/>${names
      .map(
        (name) => `
    <wsdl:operation name="${name}">
      <${version}:operation soapAction="${escapeAttribute(namespace)}#${name}" style="document"/>
      <wsdl:input><${version}:body use="literal"/></wsdl:input>
      <wsdl:output><${version}:body use="literal"/></wsdl:output>
      <wsdl:fault name="RequestFault"><${version}:fault name="RequestFault" use="literal"/></wsdl:fault>
    </wsdl:operation>`,
      )
      .join('')}
  </wsdl:binding>`;

  return `<?xml version="1.0" encoding="utf-8"?>
<wsdl:definitions name="Hub" targetNamespace="${escapeAttribute(namespace)}" xmlns:tns="${escapeAttribute(namespace)}" xmlns:wsdl="http://schemas.xmlsoap.org/wsdl/" xmlns:soap="http://schemas.xmlsoap.org/wsdl/soap/" xmlns:soap12="http://schemas.xmlsoap.org/wsdl/soap12/" xmlns:xs="http://www.w3.org/2001/XMLSchema">
  <wsdl:types>
    <xs:schema targetNamespace="${escapeAttribute(namespace)}" elementFormDefault="qualified">${operations
      .map(
        ({ name, flow, request, reply }) => `
      ${element(name, contentXsd(request), flow.summary)}
      ${element(`${name}Response`, contentXsd(reply))}`,
      )
      .join('')}
      ${element(collect, `<xs:element name="requestId" type="xs:string"/><xs:element name="waitSeconds" type="xs:int" minOccurs="0"/>`, 'Waits for the reply of a request that was accepted.')}
      ${element(`${collect}Response`, `<xs:element name="requestId" type="xs:string"/>${operations.map(({ name }) => `<xs:element ref="tns:${name}Response" minOccurs="0"/>`).join('')}`)}
      ${element('RequestFault', faultXsd, faultDoc)}
    </xs:schema>
  </wsdl:types>
  ${[...names.flatMap((name) => [name, `${name}Response`]), 'RequestFault'].map((name) => `<wsdl:message name="${name}"><wsdl:part name="${name === 'RequestFault' ? 'fault' : 'parameters'}" element="tns:${name}"/></wsdl:message>`).join('\n  ')}
  <wsdl:portType name="Hub">${names
    .map(
      (name) => `
    <wsdl:operation name="${name}">
      <wsdl:input message="tns:${name}"/>
      <wsdl:output message="tns:${name}Response"/>
      <wsdl:fault name="RequestFault" message="tns:RequestFault"/>
    </wsdl:operation>`,
    )
    .join('')}
  </wsdl:portType>${binding('soap')}${binding('soap12')}
  <wsdl:service name="HubService">
    <wsdl:port name="HubSoap11" binding="tns:Hub_soap"><soap:address location="${escapeAttribute(address)}"/></wsdl:port>
    <wsdl:port name="HubSoap12" binding="tns:Hub_soap12"><soap12:address location="${escapeAttribute(address)}"/></wsdl:port>
  </wsdl:service>
</wsdl:definitions>
`;
}

const faultDoc =
  'Detail of every fault. code: invalid, rejected, forbidden, timeout, cancelled, unavailable, internal, unauthenticated, too-large; accepted: the request goes on, and Collect with its requestId has the reply later.';

const faultXsd =
  '<xs:element name="code" type="xs:string"/><xs:element name="message" type="xs:string"/><xs:element name="requestId" type="xs:string" minOccurs="0"/>' +
  '<xs:element name="reason" type="xs:string" minOccurs="0"/><xs:element name="step" type="xs:string" minOccurs="0"/>' +
  '<xs:element name="error" minOccurs="0" maxOccurs="unbounded"><xs:complexType><xs:sequence><xs:element name="pointer" type="xs:string"/><xs:element name="detail" type="xs:string"/></xs:sequence></xs:complexType></xs:element>';

/** Without a schema. */
const freeXsd =
  '<xs:element name="contentType" type="xs:string" minOccurs="0"><xs:annotation><xs:documentation>Default: application/json.</xs:documentation></xs:annotation></xs:element>' +
  '<xs:element name="value" type="xs:string"><xs:annotation><xs:documentation>JSON and text as they are, other content as base64.</xs:documentation></xs:annotation></xs:element>';

const contentXsd = (content: Content): string => (content.kind === 'free' ? freeXsd : fieldsXsd(content.fields));

const fieldsXsd = (fields: readonly Field[]): string => fields.map(fieldXsd).join('');

function fieldXsd({ element: name, shape, required, nillable }: Field): string {
  if (shape.kind === 'array')
    return typed(
      name,
      shape.items,
      `minOccurs="0" maxOccurs="unbounded"${shape.nillable || nillable ? ' nillable="true"' : ''}`,
      shape.doc,
    );
  return typed(name, shape, [required ? '' : 'minOccurs="0"', nillable ? 'nillable="true"' : ''].filter((part) => part !== '').join(' '));
}

function typed(name: string, shape: Shape, occurs: string, doc = shape.doc): string {
  const attributes = `name="${name}"${occurs === '' ? '' : ` ${occurs}`}`;
  const note = annotation(doc);
  switch (shape.kind) {
    case 'object':
      return `<xs:element ${attributes}>${note}<xs:complexType><xs:sequence>${fieldsXsd(shape.fields)}</xs:sequence></xs:complexType></xs:element>`;
    case 'array':
      return `<xs:element ${attributes}>${note}<xs:complexType><xs:sequence>${fieldXsd({ name: 'item', element: 'item', shape, required: false, nillable: false })}</xs:sequence></xs:complexType></xs:element>`;
    case 'scalar':
      if (shape.values.length > 0)
        return `<xs:element ${attributes}>${note}<xs:simpleType><xs:restriction base="xs:string">${shape.values.map((value) => `<xs:enumeration value="${escapeAttribute(value)}"/>`).join('')}</xs:restriction></xs:simpleType></xs:element>`;
      return simple(`${attributes} type="xs:${shape.type}"`, note);
    case 'json':
      return simple(`${attributes} type="xs:string"`, note);
  }
}

const element = (name: string, children: string, doc?: string): string =>
  `<xs:element name="${name}">${annotation(doc)}<xs:complexType><xs:sequence>${children}</xs:sequence></xs:complexType></xs:element>`;

const annotation = (doc: string | undefined): string =>
  doc === undefined || doc === '' ? '' : `<xs:annotation><xs:documentation>${escapeText(doc)}</xs:documentation></xs:annotation>`;

const simple = (attributes: string, note: string): string =>
  note === '' ? `<xs:element ${attributes}/>` : `<xs:element ${attributes}>${note}</xs:element>`;
