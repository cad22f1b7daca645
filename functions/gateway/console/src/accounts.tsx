import { useEffect, useState } from 'preact/hooks'
import {
  changeAccount, createAccount, endSessionsOf, listAccounts, removePasskeysOf, setSecondFactors, showSecondFactors, unlockAccount, type Account,
} from './api'
import { When } from './format'
import { explain } from './problem'
import { NewPassword, Owner } from './password'
import { complain, Dialog, say, Trouble, useTask } from './ui'

export function Accounts({ me }: { me: string }) {
  const [accounts, setAccounts] = useState<Account[]>()
  const [next, setNext] = useState('')
  const [error, setError] = useState('')
  const [creating, setCreating] = useState(false)
  const [resetting, setResetting] = useState<Account>()
  const [unlocking, setUnlocking] = useState<Account>()

  async function load(cursor: string) {
    setError('')
    try {
      const page = await listAccounts(cursor)
      setAccounts((before) => (cursor && before ? [...before, ...page.accounts] : page.accounts))
      setNext(page.next ?? '')
    } catch (thrown) {
      setError(explain(thrown))
    }
  }
  useEffect(() => void load(''), [])

  async function change(account: Account, what: Parameters<typeof changeAccount>[1], done: string) {
    const changed = await changeAccount(account.id, what)
    setAccounts((before) => before?.map((other) => (other.id === changed.id ? changed : other)))
    say(done)
  }

  return (
    <section aria-label="Accounts" class="card list">
      <div class="tools">
        <p class="muted count">Disabled users cannot sign in, and their sessions have ended. Their files are kept.</p>
        <button type="button" class="main" onClick={() => setCreating(true)}>New account</button>
      </div>
      <SecondFactors />
      <Trouble text={error} onRetry={() => load('')} />
      {!accounts && !error && <p class="muted empty">Loading…</p>}
      {accounts && (
        <table>
          <thead>
            <tr>
              <th scope="col">User name</th>
              <th scope="col">Role</th>
              <th scope="col" class="minor">State</th>
              <th scope="col" class="minor">Created</th>
              <th scope="col"><span class="unseen">Actions</span></th>
            </tr>
          </thead>
          <tbody>
            {accounts.map((account) => {
              const { username, role, disabled } = account
              const other = role === 'admin' ? 'user' : 'admin'
              return (
                <tr key={account.id} data-account={username} data-disabled={disabled}>
                  <th scope="row">{username}{account.id === me && <span class="muted"> (you)</span>}{disabled && <span class="brief">Disabled</span>}</th>
                  <td>{role === 'admin' ? 'Admin' : 'User'}</td>
                  <td class="minor"><span class={disabled ? 'state off' : 'state catalogued'}>{disabled ? 'Disabled' : 'Active'}</span></td>
                  <td class="minor"><When at={account.created_at} /></td>
                  <td class="actions">
                    {account.id !== me && (
                      <>
                        <button type="button" aria-label={`${disabled ? 'Enable' : 'Disable'}: ${username}`} onClick={() =>
                          change(account, { disabled: !disabled }, `${username} is now ${disabled ? 'enabled' : 'disabled'}.`).catch(complain)}>{disabled ? 'Enable' : 'Disable'}</button>
                        <button type="button" aria-label={`Make ${other}: ${username}`} onClick={() =>
                          change(account, { role: other }, `${username} is now ${other === 'admin' ? 'an admin' : 'a user'}.`).catch(complain)}>Make {other}</button>
                        <button type="button" aria-label={`Reset password: ${username}`} onClick={() => setResetting(account)}>Reset password</button>
                        <button type="button" aria-label={`Unlock: ${username}`} onClick={() =>
                          unlockAccount(account.id).then(() => say(`${username} can sign in again without a delay.`)).catch(complain)}>Unlock</button>
                        <button type="button" aria-label={`End sessions: ${username}`} onClick={() =>
                          endSessionsOf(account.id).then(() => say(`Ended all sessions of ${username}.`)).catch(complain)}>End sessions</button>
                        {account.has_passkey && (
                          <button type="button" aria-label={`Remove passkeys: ${username}`} onClick={() => setUnlocking(account)}>Remove passkeys</button>
                        )}
                      </>
                    )}
                  </td>
                </tr>
              )
            })}
          </tbody>
        </table>
      )}
      {next && <p class="more"><button type="button" onClick={() => load(next)}>More</button></p>}
      {creating && (
        <Credentials title="New account" action="Create" onClose={() => setCreating(false)} onDone={async (username, password, role) => {
          const created = await createAccount(username, password, role)
          setAccounts((before) => [...(before ?? []), created].sort((a, b) => a.username.localeCompare(b.username)))
          setCreating(false)
          say(`Created the account ${created.username}.`)
        }} />
      )}
      {unlocking && (
        <Removal account={unlocking} onClose={() => setUnlocking(undefined)} onDone={async () => {
          await removePasskeysOf(unlocking.id)
          setAccounts((before) => before?.map((other) => (other.id === unlocking.id ? { ...other, has_passkey: false } : other)))
          setUnlocking(undefined)
          say(`Removed the passkeys of ${unlocking.username} and ended all of their sessions.`)
        }} />
      )}
      {resetting && (
        <Credentials title={`Reset the password for ${resetting.username}`} action="Reset" of={resetting} onClose={() => setResetting(undefined)} onDone={async (_, password) => {
          await change(resetting, { password }, `Reset the password for ${resetting.username} and ended all of their sessions.`)
          setResetting(undefined)
        }} />
      )}
    </section>
  )
}

/**
 * Credentials is a dialog for a new password. Without the account `of`, the dialog also has fields for the user
 * name and role of a new account.
 */
function Credentials({ title, action, of, onClose, onDone }: {
  title: string; action: string; of?: Account; onClose: () => void; onDone: (username: string, password: string, role: string) => Promise<void>
}) {
  const [username, setUsername] = useState(of?.username ?? '')
  const [password, setPassword] = useState('')
  const [role, setRole] = useState('user')
  const task = useTask()
  return (
    <Dialog title={title} onClose={onClose}>
      <form onSubmit={(event) => { event.preventDefault(); void task.run(() => onDone(username.trim(), password, role)) }}>
        {of ? <Owner username={of.username} /> : (
          <>
            <label for="new-name">User name</label>
            <input id="new-name" autocomplete="off" autocapitalize="none" spellcheck={false} required maxLength={64} autofocus
              value={username} onInput={(event) => setUsername(event.currentTarget.value)} />
          </>
        )}
        <NewPassword value={password} onValue={setPassword} focus={Boolean(of)} />
        <p class="muted">At the next sign-in, within 7 days, the user must choose another password.</p>
        {!of && (
          <>
            <label for="new-role">Role</label>
            <select id="new-role" value={role} onChange={(event) => setRole(event.currentTarget.value)}>
              <option value="user">User: their own files</option>
              <option value="admin">Admin: all files, accounts, audit log</option>
            </select>
          </>
        )}
        <Trouble text={task.error} />
        <footer>
          <button type="button" onClick={onClose}>Cancel</button>
          <button type="submit" class="main" disabled={task.busy}>{action}</button>
        </footer>
      </form>
    </Dialog>
  )
}

/** Removal is a dialog that asks an admin to confirm the removal of a user's passkeys. */
function Removal({ account, onClose, onDone }: { account: Account; onClose: () => void; onDone: () => Promise<void> }) {
  const task = useTask()
  return (
    <Dialog title={`Remove the passkeys of ${account.username}?`} onClose={onClose}>
      <p>This also invalidates the recovery codes and ends all sessions of {account.username}, who can then sign in with the password.</p>
      <Trouble text={task.error} />
      <footer>
        <button type="button" onClick={onClose}>Cancel</button>
        <button type="button" class="danger" disabled={task.busy} onClick={() => task.run(onDone)}>Remove</button>
      </footer>
    </Dialog>
  )
}

/** SecondFactors shows the roles that require a second factor. */
function SecondFactors() {
  const [roles, setRoles] = useState<string[]>()
  const task = useTask()
  useEffect(() => void task.run(async () => setRoles(await showSecondFactors())), [])
  return (
    <div class="tools">
      {roles && [['user', 'users'], ['admin', 'admins']].map(([role, people]) => (
        <label key={role} class="check">
          <input type="checkbox" checked={roles.includes(role!)} disabled={task.busy} onClick={(event) => {
            event.preventDefault() // the box changes when the server has accepted the change
            const others = roles.filter((other) => other !== role)
            void task.run(async () => setRoles(await setSecondFactors(roles.includes(role!) ? others : [...others, role!])))
          }} />
          Require a second factor for {people}
        </label>
      ))}
      <Trouble text={task.error} />
    </div>
  )
}
