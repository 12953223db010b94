/** Data to read: what the request brought, as a table of names and values. */
import type { Json, Schema } from './contract.js';
import { isObject, spoken } from './form/model.js';

/** A schema, where there is one, gives the names. */
export function Context({ data, schema }: { readonly data: Json; readonly schema?: Schema | null | undefined }) {
  if (data === null || data === '') return <span className="soft">–</span>;
  if (typeof data === 'boolean') return <>{data ? 'yes' : 'no'}</>;
  if (typeof data === 'number') return <>{data.toLocaleString()}</>;
  if (typeof data === 'string') return <span className="text">{data}</span>;
  if (Array.isArray(data)) return <Items items={data as readonly Json[]} schema={schema?.items} />;
  const entries = Object.entries(data);
  if (entries.length === 0) return <span className="soft">–</span>;
  return (
    <dl className="context">
      {entries.map(([name, value]) => (
        <div key={name}>
          <dt>{schema?.properties?.[name]?.title ?? spoken(name)}</dt>
          <dd>
            <Context data={value} schema={schema?.properties?.[name]} />
          </dd>
        </div>
      ))}
    </dl>
  );
}

/** Things of one kind become a table, when they are flat. */
function Items({ items, schema }: { readonly items: readonly Json[]; readonly schema: Schema | undefined }) {
  const names = [...new Set(items.flatMap((item) => (isObject(item) ? Object.keys(item) : [])))];
  const flat =
    items.length > 0 &&
    names.length > 0 &&
    names.length <= 6 &&
    items.every((item) => isObject(item) && Object.values(item).every((value) => typeof value !== 'object'));
  if (!flat) {
    return (
      <ul className="items">
        {items.map((item, index) => (
          <li key={index}>
            <Context data={item} schema={schema} />
          </li>
        ))}
      </ul>
    );
  }
  return (
    <div className="scroll" tabIndex={0} role="region" aria-label="Table">
      <table>
        <thead>
          <tr>
            {names.map((name) => (
              <th key={name} scope="col">
                {schema?.properties?.[name]?.title ?? spoken(name)}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {items.map((item, index) => (
            <tr key={index}>
              {names.map((name) => (
                <td key={name} className={isObject(item) && typeof item[name] === 'number' ? 'number' : ''}>
                  <Context data={(isObject(item) ? item[name] : undefined) ?? null} />
                </td>
              ))}
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}
