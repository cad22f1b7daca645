import { useEffect, useRef, useState } from 'preact/hooks'
import { farewell, signIn } from './session'
import { useStore } from './store'
import { Logo, Trouble, useTask } from './ui'

export function SignIn() {
  const [username, setUsername] = useState('')
  const [password, setPassword] = useState('')
  const field = useRef<HTMLInputElement>(null)
  const why = useStore(farewell)
  const task = useTask()
  useEffect(() => {
    document.title = 'Sign in – Strongroom'
    field.current?.focus()
  }, [])
  return (
    <main class="door">
      <form class="card" onSubmit={(event) => { event.preventDefault(); void task.run(() => signIn(username, password)) }}>
        <div class="brand"><Logo /><span>Strongroom</span></div>
        <h1>Sign in</h1>
        <p role="status" class="muted">{why}</p>
        <label for="username">User name</label>
        <input id="username" ref={field} autocomplete="username" autocapitalize="none" spellcheck={false} required
          value={username} onInput={(event) => setUsername(event.currentTarget.value)} />
        <label for="password">Password</label>
        <input id="password" type="password" autocomplete="current-password" required
          value={password} onInput={(event) => setPassword(event.currentTarget.value)} />
        <Trouble text={task.error} />
        <button type="submit" class="main" disabled={task.busy}>{task.busy ? 'Signing in…' : 'Sign in'}</button>
      </form>
    </main>
  )
}
