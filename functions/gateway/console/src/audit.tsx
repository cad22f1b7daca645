import { useEffect, useState } from 'preact/hooks'
import { listAudit, type AuditEntry } from './api'
import { When } from './format'
import { explain } from './problem'
import { Trouble } from './ui'

const actions: Record<string, string> = {
  'user.created': 'Created the account', 'user.disabled': 'Disabled the account', 'user.enabled': 'Enabled the account',
  'user.deleted': 'Deleted the account', 'password.reset': 'Reset the password', 'password.changed': 'Changed their password',
  'sessions.ended': 'Signed out everywhere',
}

function deed({ action, role }: AuditEntry): string {
  if (action === 'role.changed') return role === 'admin' ? 'Changed the role to admin' : 'Changed the role to user'
  return (actions[action] ?? action) + (action === 'user.created' && role ? ` (${role})` : '')
}

/** Audit shows all changes of accounts, newest first. */
export function Audit() {
  const [entries, setEntries] = useState<AuditEntry[]>()
  const [next, setNext] = useState('')
  const [error, setError] = useState('')
  async function load(cursor: string) {
    setError('')
    try {
      const page = await listAudit(cursor)
      setEntries((before) => (cursor && before ? [...before, ...page.entries] : page.entries))
      setNext(page.next ?? '')
    } catch (thrown) {
      setError(explain(thrown))
    }
  }
  useEffect(() => void load(''), [])
  return (
    <section aria-label="Audit log" class="card list">
      <Trouble text={error} onRetry={() => load('')} />
      {!entries && !error && <p class="muted empty">Loading…</p>}
      {entries?.length === 0 && <p class="muted empty">There are no account changes yet.</p>}
      {entries && entries.length > 0 && (
        <table>
          <thead>
            <tr>
              <th scope="col" class="minor">When</th>
              <th scope="col">Action</th>
              <th scope="col">Account</th>
              <th scope="col">By</th>
              <th scope="col" class="minor">IP address</th>
            </tr>
          </thead>
          <tbody>
            {entries.map((entry) => (
              <tr key={entry.id} data-action={entry.action} data-account={entry.account.username}>
                <td class="minor"><When at={entry.at} /></td>
                <td>{deed(entry)}<span class="brief"><When at={entry.at} /></span></td>
                <td class="name">{entry.account.username}</td>
                <td class="name">{entry.actor.username}</td>
                <td class="minor">{entry.address ?? ''}</td>
              </tr>
            ))}
          </tbody>
        </table>
      )}
      {next && <p class="more"><button type="button" onClick={() => load(next)}>More</button></p>}
    </section>
  )
}
