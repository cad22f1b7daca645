import { useEffect, useRef, useState } from 'preact/hooks'
import { listAccounts, listFiles, type Account, type StoredFile } from './api'
import { fresh } from './arrivals'
import { download, FileDialog, type Intent } from './file'
import { kind, size, When } from './format'
import { Uploads } from './uploads'
import { useStore } from './store'
import { explain } from './problem'
import { complain, Icon, Trouble } from './ui'

const states = { stored: 'Stored', catalogued: 'Cataloged', late: 'Stored, cataloging delayed' }

/** orders contains the values of the parameter sort. The files of all users can be sorted only by date. */
const orders = { '-date': 'Newest first', date: 'Oldest first', name: 'Name, A to Z', '-name': 'Name, Z to A', '-size': 'Largest first', size: 'Smallest first' }
const newest = '-date'

/** Files is the list of an owner's files. If everybody is set, the list contains the files of all users, for admins. */
export function Files({ owner = '', everybody = false }: { owner?: string; everybody?: boolean }) {
  const [whose, setWhose] = useState(owner)
  const [typed, setTyped] = useState('')
  const [sought, setSought] = useState('')
  const [sort, setSort] = useState(newest)
  const [files, setFiles] = useState<StoredFile[]>()
  const [next, setNext] = useState('')
  const [error, setError] = useState('')
  const [opened, setOpened] = useState<{ file: StoredFile; intent: Intent }>()
  const [owners, setOwners] = useState<Account[]>([])
  const turn = useRef(0)
  const uploaded = useStore(fresh)

  async function load(cursor: string) {
    const mine = ++turn.current
    setError('')
    try {
      const page = await listFiles(sought, whose, sort, cursor)
      if (mine !== turn.current) return // a newer search has started
      setFiles((before) => (cursor && before ? [...before, ...page.files] : page.files))
      setNext(page.next ?? '')
    } catch (thrown) {
      if (mine === turn.current) setError(explain(thrown))
    }
  }
  useEffect(() => void load(''), [sought, whose, sort])
  useEffect(() => {
    const timer = setTimeout(() => setSought(typed.trim()), 250)
    return () => clearTimeout(timer)
  }, [typed])
  useEffect(() => {
    if (everybody) allAccounts().then(setOwners, complain)
  }, [everybody])

  // New uploads are shown above the list until a page of the list contains them.
  const listed = new Set(files?.map((file) => file.id))
  const matching = uploaded.filter((file) => !everybody && !listed.has(file.id) && matches(file.name, sought))
  const known = new Map(uploaded.map((file) => [file.id, file]))
  const rows = [...matching, ...(files ?? [])].map((file) => (file.status === 'catalogued' ? file : known.get(file.id) ?? file))
  const nameOf = (id: string) => owners.find((account) => account.id === id)?.username ?? id

  function choose(owner: string) {
    setWhose(owner)
    if (!owner) setSort(newest)
  }

  function gone(file: StoredFile) {
    fresh.value = fresh.value.filter((other) => other.id !== file.id)
    setFiles((before) => before?.filter((other) => other.id !== file.id))
    setOpened(undefined)
  }

  return (
    <>
      {!everybody && <Uploads />}
      <section aria-label={everybody ? 'Files of all users' : 'Files'} class="card list">
        <div class="tools">
          <form role="search" class="search" onSubmit={(event) => event.preventDefault()}>
            <Icon name="search" />
            <input type="search" aria-label="Search by name" placeholder="Search by name" value={typed} onInput={(event) => setTyped(event.currentTarget.value)} />
          </form>
          {everybody && (
            <label class="filter">Owner{' '}
              <select value={whose} onChange={(event) => choose(event.currentTarget.value)}>
                <option value="">All users</option>
                {owners.map((account) => <option key={account.id} value={account.id}>{account.username}</option>)}
              </select>
            </label>
          )}
          <label class="filter">Sort{' '}
            <select value={sort} onChange={(event) => setSort(event.currentTarget.value)}>
              {Object.entries(orders).map(([value, label]) => (!everybody || whose || value.endsWith('date')) && <option key={value} value={value}>{label}</option>)}
            </select>
          </label>
          <p role="status" class="muted count">{files && counted(rows.length, Boolean(next), sought)}</p>
        </div>
        <Trouble text={error} onRetry={() => load('')} />
        {!files && !error && <p class="muted empty">Loading…</p>}
        {files && rows.length === 0 && <p class="muted empty">{sought ? 'No files match your search.' : 'There are no files yet.'}</p>}
        {rows.length > 0 && (
          <table>
            <thead>
              <tr>
                <th scope="col">Name</th>
                {everybody && <th scope="col" class="minor">Owner</th>}
                <th scope="col" class="minor number">Size</th>
                <th scope="col" class="minor">Type</th>
                <th scope="col" class="minor">Added</th>
                <th scope="col" class="minor">State</th>
                <th scope="col"><span class="unseen">Actions</span></th>
              </tr>
            </thead>
            <tbody>
              {rows.map((file) => (
                <tr key={file.id} data-id={file.id} data-state={file.status}>
                  <th scope="row">
                    <button type="button" class="name" onClick={() => setOpened({ file, intent: 'show' })}>{file.name}</button>
                    <span class="brief">{size(file.size)} · <When at={file.stored_at} />{file.status !== 'catalogued' && ` · ${states[file.status]}`}{everybody && ` · ${nameOf(file.owner)}`}</span>
                  </th>
                  {everybody && <td class="minor">{nameOf(file.owner)}</td>}
                  <td class="minor number">{size(file.size)}</td>
                  <td class="minor" title={file.content_type}>{kind(file.content_type)}</td>
                  <td class="minor"><When at={file.stored_at} /></td>
                  <td class="minor"><span class={`state ${file.status}`}>{states[file.status]}</span></td>
                  <td class="actions">
                    <button type="button" class="plain" title="Download" aria-label={`Download ${file.name}`} onClick={() => download(file).catch(complain)}><Icon name="download" /></button>
                    <button type="button" class="plain extra" title="Share" aria-label={`Share ${file.name}`} onClick={() => setOpened({ file, intent: 'link' })}><Icon name="link" /></button>
                    <button type="button" class="plain extra" title="Delete" aria-label={`Delete ${file.name}`} onClick={() => setOpened({ file, intent: 'delete' })}><Icon name="delete" /></button>
                  </td>
                </tr>
              ))}
            </tbody>
          </table>
        )}
        {next && <p class="more"><button type="button" onClick={() => load(next)}>More</button></p>}
      </section>
      {opened && <FileDialog key={opened.file.id} {...opened} owner={everybody ? nameOf(opened.file.owner) : ''} onClose={() => setOpened(undefined)} onDeleted={() => gone(opened.file)} />}
    </>
  )
}

function counted(n: number, more: boolean, sought: string): string {
  const files = n === 1 && !more ? '1 file' : `${n}${more ? '+' : ''} files`
  return sought ? `${files} found` : n ? files : ''
}

/** matches reports whether a file with the given name is shown for the given search text. The server has the same rule. */
function matches(name: string, sought: string): boolean {
  const words = (text: string) => text.normalize('NFKC').toLowerCase().split(/[^\p{L}\p{N}\p{M}]+/u).filter(Boolean)
  const named = words(name)
  return words(sought).every((word) => named.some((other) => other.startsWith(word)))
}

/** allAccounts returns the accounts for the list of owners, at most 1000. */
async function allAccounts(): Promise<Account[]> {
  const all: Account[] = []
  for (let cursor = '', pages = 0; pages < 10; pages++) {
    const page = await listAccounts(cursor)
    all.push(...page.accounts)
    if (!page.next) break
    cursor = page.next
  }
  return all
}
