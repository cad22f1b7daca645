import { useEffect, useState } from 'preact/hooks'
import { listAudit, type AuditEntry } from './api'
import { When } from './format'
import { explain } from './problem'
import { Trouble } from './ui'

const actions: Record<string, string> = {
  'user.created': 'Created the account', 'user.disabled': 'Disabled the account', 'user.enabled': 'Enabled the account',
  'user.deleted': 'Deleted the account', 'password.reset': 'Reset the password', 'password.changed': 'Changed their password',
  'session.ended': 'Ended a session', 'sessions.ended': 'Ended several sessions',
  'lockout.removed': 'Removed the lockout',
  'passkey.added': 'Added a passkey', 'passkey.removed': 'Removed a passkey', 'passkeys.removed': 'Removed all passkeys',
  'recovery-codes.created': 'Created recovery codes', 'recovery-code.used': 'Used a recovery code',
  'signin.succeeded': 'Signed in', 'account.locked': 'Locked after failed sign-ins',
}

const details: Record<string, string> = {
  pwd: 'with the password', passkey: 'with a passkey', 'pwd+code': 'with the password and a recovery code',
  limit: 'because of more than 50 sessions', reuse: 'because a used refresh token was sent again',
}

function deed({ action, role, detail }: AuditEntry): string {
  if (action === 'role.changed') return role === 'admin' ? 'Changed the role to admin' : 'Changed the role to user'
  if (action.startsWith('second-factor.')) return `${action === 'second-factor.required' ? 'Required a second factor' : 'Made the second factor optional'} for the role ${role}`
  return (actions[action] ?? action) + (action === 'user.created' && role ? ` (${role})` : '') + (detail ? ` ${details[detail] ?? detail}` : '')
}

/** Audit shows all changes of accounts, all sign-ins and all lockouts, newest first. */
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
      {entries?.length === 0 && <p class="muted empty">There are no entries yet.</p>}
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
                <td class="name">{entry.actor.username || 'unknown'}</td>
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
