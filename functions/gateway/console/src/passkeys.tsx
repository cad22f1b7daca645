import { useEffect, useState } from 'preact/hooks'
import { addPasskey, createRecoveryCodes, listPasskeys, passkeyOptions, removePasskey, renamePasskey, type Passkey, type PasskeyList } from './api'
import { When } from './format'
import { createPasskey, supported } from './passkey'
import { explain } from './problem'
import { signInWithPasskey } from './session'
import { Dialog, say, Trouble, useTask } from './ui'

/**
 * Passkeys shows the user's passkeys and recovery codes. If `required` is set, the user can use the other pages only
 * after a sign-in with a passkey.
 */
export function Passkeys({ required }: { required: boolean }) {
  const [list, setList] = useState<PasskeyList>()
  const [error, setError] = useState('')
  const [adding, setAdding] = useState(false)
  const [renaming, setRenaming] = useState<Passkey>()
  const [removing, setRemoving] = useState<Passkey>()
  const [codes, setCodes] = useState<string[]>()
  const creating = useTask()
  const signing = useTask()

  async function load() {
    setError('')
    try {
      setList(await listPasskeys())
    } catch (thrown) {
      setError(explain(thrown))
    }
  }
  useEffect(() => void load(), [])

  async function add(name: string) {
    const credential = await createPasskey((await passkeyOptions()).publicKey)
    await addPasskey(credential, name)
    setAdding(false)
    say(`Added the passkey ${name}.`)
    await load()
  }

  return (
    <section aria-label="Passkeys" class="card list">
      {required && (
        <div class="trouble">
          <p>{list?.passkeys.length
            ? 'Your role requires a second factor. Sign in with your passkey to continue.'
            : 'Your role requires a second factor. Add a passkey, and then sign in with the passkey.'}</p>
          {Boolean(list?.passkeys.length) && (
            <button type="button" class="main" disabled={signing.busy} onClick={() => signing.run(signInWithPasskey)}>Sign in with a passkey</button>
          )}
        </div>
      )}
      <Trouble text={signing.error} />
      <div class="tools">
        <p class="muted">A passkey is on your phone, your computer or a security key. You can sign in with it instead of your password.</p>
        <button type="button" class="main" disabled={!supported} onClick={() => setAdding(true)}>Add a passkey</button>
      </div>
      {!supported && <p class="muted empty">This browser does not support passkeys at this address. Passkeys require HTTPS.</p>}
      <Trouble text={error} onRetry={load} />
      {!list && !error && <p class="muted empty">Loading…</p>}
      {list?.passkeys.length === 0 && <p class="muted empty">You have no passkeys.</p>}
      {list && list.passkeys.length > 0 && (
        <table>
          <thead>
            <tr>
              <th scope="col">Name</th>
              <th scope="col" class="minor">Domain</th>
              <th scope="col" class="minor">Added</th>
              <th scope="col">Last used</th>
              <th scope="col"><span class="unseen">Actions</span></th>
            </tr>
          </thead>
          <tbody>
            {list.passkeys.map((passkey) => (
              <tr key={passkey.id} data-passkey={passkey.name}>
                <th scope="row">{passkey.name}</th>
                <td class="minor">{passkey.domain}</td>
                <td class="minor"><When at={passkey.created_at} /></td>
                <td>{passkey.used_at ? <When at={passkey.used_at} /> : 'Never'}</td>
                <td class="actions">
                  <button type="button" aria-label={`Rename: ${passkey.name}`} onClick={() => setRenaming(passkey)}>Rename</button>
                  <button type="button" class="danger" aria-label={`Remove: ${passkey.name}`} onClick={() => setRemoving(passkey)}>Remove</button>
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      )}
      {list && list.passkeys.length > 0 && (
        <div class="tools">
          <p class="muted">You have {list.recovery_codes} unused recovery codes. If you lose your passkeys, you can sign in with your password and a recovery code. Each code works once.</p>
          <button type="button" disabled={creating.busy} onClick={() => creating.run(async () => setCodes(await createRecoveryCodes()))}>New recovery codes</button>
        </div>
      )}
      <Trouble text={creating.error} />
      {adding && <Name title="Add a passkey" action="Add" name="" onClose={() => setAdding(false)} onDone={add} />}
      {renaming && (
        <Name title="Rename the passkey" action="Rename" name={renaming.name} onClose={() => setRenaming(undefined)} onDone={async (name) => {
          await renamePasskey(renaming.id, name)
          setRenaming(undefined)
          await load()
        }} />
      )}
      {removing && (
        <Removal passkey={removing} last={list?.passkeys.length === 1} onClose={() => setRemoving(undefined)} onDone={async () => {
          await removePasskey(removing.id)
          setRemoving(undefined)
          say(`Removed the passkey ${removing.name}.`)
          await load()
        }} />
      )}
      {codes && <Codes codes={codes} onClose={() => { setCodes(undefined); void load() }} />}
    </section>
  )
}

/** Name is a dialog for the name of a passkey. */
function Name({ title, action, name, onClose, onDone }: {
  title: string; action: string; name: string; onClose: () => void; onDone: (name: string) => Promise<void>
}) {
  const [chosen, setChosen] = useState(name)
  const task = useTask()
  return (
    <Dialog title={title} onClose={onClose}>
      <form onSubmit={(event) => { event.preventDefault(); void task.run(() => onDone(chosen.trim())) }}>
        <label for="passkey-name">Name</label>
        <input id="passkey-name" autocomplete="off" required maxLength={64} autofocus placeholder="My phone"
          value={chosen} onInput={(event) => setChosen(event.currentTarget.value)} />
        <Trouble text={task.error} />
        <footer>
          <button type="button" onClick={onClose}>Cancel</button>
          <button type="submit" class="main" disabled={task.busy}>{action}</button>
        </footer>
      </form>
    </Dialog>
  )
}

/** Removal is a dialog that asks the user to confirm the removal of a passkey. */
function Removal({ passkey, last, onClose, onDone }: { passkey: Passkey; last: boolean; onClose: () => void; onDone: () => Promise<void> }) {
  const task = useTask()
  return (
    <Dialog title={`Remove ${passkey.name}?`} onClose={onClose}>
      <p>You can no longer sign in with this passkey.{last && ' Because it is your last passkey, your recovery codes become invalid.'}</p>
      <Trouble text={task.error} />
      <footer>
        <button type="button" onClick={onClose}>Cancel</button>
        <button type="button" class="danger" disabled={task.busy} onClick={() => task.run(onDone)}>Remove</button>
      </footer>
    </Dialog>
  )
}

/** Codes is a dialog that shows new recovery codes. */
function Codes({ codes, onClose }: { codes: string[]; onClose: () => void }) {
  const text = codes.join('\n')
  const task = useTask()
  return (
    <Dialog title="Your recovery codes" onClose={onClose}>
      <p>Keep these codes in a safe place, such as a password manager. Strongroom cannot show them again. Your earlier codes are invalid.</p>
      <pre class="codes">{text}</pre>
      <Trouble text={task.error} />
      <footer>
        {/* A page without TLS has no navigator.clipboard. */}
        {navigator.clipboard && <button type="button" onClick={() => task.run(() => navigator.clipboard.writeText(text))}>Copy</button>}
        <button type="button" class="main" onClick={onClose}>Done</button>
      </footer>
    </Dialog>
  )
}
