import { useEffect, useRef, useState } from 'preact/hooks'
import { supported } from './passkey'
import { NewPassword, Owner, Secret } from './password'
import { Problem } from './problem'
import { farewell, signIn, signInWithPasskey } from './session'
import { useStore } from './store'
import { Logo, Trouble, useTask } from './ui'

export function SignIn() {
  const [username, setUsername] = useState('')
  const [password, setPassword] = useState('')
  const [expired, setExpired] = useState(false)
  const [code, setCode] = useState<string>() // undefined until the server requires a second factor
  const field = useRef<HTMLInputElement>(null)
  const why = useStore(farewell)
  const task = useTask()
  useEffect(() => {
    document.title = 'Sign in – Strongroom'
    field.current?.focus()
  }, [])

  async function enter() {
    try {
      await signIn(username, password, { recovery_code: code })
    } catch (thrown) {
      const kind = thrown instanceof Problem ? thrown.kind : ''
      if (kind === 'second-factor-required') setCode(code ?? '')
      if (kind !== 'password-change-required') throw thrown
      setExpired(true)
    }
  }

  if (expired) return <Renewal username={username} password={password} code={code} />
  return (
    <main class="door">
      <form class="card" onSubmit={(event) => { event.preventDefault(); void task.run(enter) }}>
        <div class="brand"><Logo /><span>Strongroom</span></div>
        <h1>Sign in</h1>
        <p role="status" class="muted">{why}</p>
        <label for="username">User name</label>
        <input id="username" ref={field} autocomplete="username" autocapitalize="none" spellcheck={false} required
          value={username} onInput={(event) => setUsername(event.currentTarget.value)} />
        <Secret label="Password" autocomplete="current-password" value={password} onValue={setPassword} />
        {code !== undefined && (
          <>
            <label for="code">Recovery code</label>
            <input id="code" autocomplete="one-time-code" autocapitalize="characters" spellcheck={false} required
              value={code} onInput={(event) => setCode(event.currentTarget.value)} />
          </>
        )}
        <Trouble text={task.error} />
        <button type="submit" class="main" disabled={task.busy}>{task.busy ? 'Signing in…' : 'Sign in'}</button>
        {supported && <button type="button" disabled={task.busy} onClick={() => task.run(signInWithPasskey)}>Sign in with a passkey</button>}
      </form>
    </main>
  )
}

/** Renewal asks for a new password, because another person has set the password of the user. */
function Renewal({ username, password, code }: { username: string; password: string; code?: string }) {
  const [chosen, setChosen] = useState('')
  const task = useTask()
  useEffect(() => {
    document.title = 'Choose a new password – Strongroom'
  }, [])
  return (
    <main class="door">
      <form class="card" onSubmit={(event) => { event.preventDefault(); void task.run(() => signIn(username, password, { new_password: chosen, recovery_code: code })) }}>
        <div class="brand"><Logo /><span>Strongroom</span></div>
        <h1>Choose a new password</h1>
        <p class="muted">Another person has set your password. Choose a password that only you know.</p>
        <Owner username={username.trim()} />
        <NewPassword value={chosen} onValue={setChosen} focus />
        <Trouble text={task.error} />
        <button type="submit" class="main" disabled={task.busy}>{task.busy ? 'Signing in…' : 'Change password and sign in'}</button>
      </form>
    </main>
  )
}
