import { useState } from 'preact/hooks'
import { supported } from './passkey'
import { Owner, Secret } from './password'
import { Problem } from './problem'
import { confirming, session, signIn, signInWithPasskey } from './session'
import { useStore } from './store'
import { Dialog, Trouble, useTask } from './ui'

/** Confirm shows a dialog that asks for the password again while a request needs a recent sign-in. */
export function Confirm() {
  const waiting = useStore(confirming)
  return waiting ? <Form resolve={waiting.resolve} reject={waiting.reject} /> : null
}

function Form({ resolve, reject }: { resolve: () => void; reject: (why: Problem) => void }) {
  const [password, setPassword] = useState('')
  const task = useTask()
  const username = session.value?.user.username ?? ''
  const cancel = () => reject(new Problem(401, 'sign-in-too-old', 'Nothing was changed, because you did not confirm your password.'))
  const confirm = (work: () => Promise<void>) => task.run(async () => {
    await work()
    resolve()
  })
  return (
    <Dialog title="Confirm your password" onClose={cancel}>
      <form onSubmit={(event) => {
        event.preventDefault()
        void confirm(() => signIn(username, password))
      }}>
        <p>This action requires a sign-in in the last 10 minutes.</p>
        <Owner username={username} />
        <Secret label={`Password of ${username}`} autocomplete="current-password" value={password} onValue={setPassword} focus />
        <Trouble text={task.error} />
        <footer>
          <button type="button" onClick={cancel}>Cancel</button>
          {supported && <button type="button" disabled={task.busy} onClick={() => confirm(signInWithPasskey)}>Use a passkey</button>}
          <button type="submit" class="main" disabled={task.busy}>Confirm</button>
        </footer>
      </form>
    </Dialog>
  )
}
