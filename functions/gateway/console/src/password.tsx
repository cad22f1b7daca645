import { useState } from 'preact/hooks'
import { changePassword } from './api'
import { ended } from './session'
import { Trouble, useTask } from './ui'

export function Password() {
  const [current, setCurrent] = useState('')
  const [chosen, setChosen] = useState('')
  const task = useTask()
  return (
    <form class="card narrow" onSubmit={(event) => {
      event.preventDefault()
      void task.run(async () => {
        await changePassword(current, chosen)
        ended('Your password has been changed, and all your sessions have ended. Sign in with your new password.')
      })
    }}>
      <label for="current">Current password</label>
      <input id="current" type="password" autocomplete="current-password" required value={current} onInput={(event) => setCurrent(event.currentTarget.value)} />
      <label for="chosen">New password</label>
      <input id="chosen" type="password" autocomplete="new-password" required minLength={8} aria-describedby="rule"
        value={chosen} onInput={(event) => setChosen(event.currentTarget.value)} />
      <p id="rule" class="muted">At least 8 characters. After the change, you must sign in again on all your devices.</p>
      <Trouble text={task.error} />
      <button type="submit" class="main" disabled={task.busy}>Change password</button>
    </form>
  )
}
