import { useId, useState } from 'preact/hooks'
import { changePassword } from './api'
import { ended } from './session'
import { Trouble, useTask } from './ui'

/** Secret is a field for a password, with a button that shows the password. */
export function Secret({ label, autocomplete, value, onValue, describedBy, focus }: {
  label: string; autocomplete: 'current-password' | 'new-password'; value: string; onValue: (value: string) => void; describedBy?: string; focus?: boolean
}) {
  const [shown, setShown] = useState(false)
  const id = useId()
  return (
    <>
      <label for={id}>{label}</label>
      <input id={id} type={shown ? 'text' : 'password'} autocomplete={autocomplete} autocapitalize="none" spellcheck={false} required
        autofocus={focus} aria-describedby={describedBy} value={value} onInput={(event) => onValue(event.currentTarget.value)} />
      <button type="button" class="reveal" aria-pressed={shown} aria-controls={id} onClick={() => setShown(!shown)}>Show password</button>
    </>
  )
}

/** The numbers of characters from which a password is acceptable (set by the gateway), and from which it is long. */
const fair = Number(document.documentElement.dataset.passwordMinLength), long = Math.max(16, fair)

/** NewPassword is a field for a new password, with a meter of its length. The server checks the other rules. */
export function NewPassword({ value, onValue, focus }: { value: string; onValue: (value: string) => void; focus?: boolean }) {
  const id = useId()
  // The server counts code points, before and after the normalization to NFKC. Several spaces in a row count as one.
  const length = Math.min(...[value, value.normalize('NFKC')].map((text) => [...text.replace(/ +/g, ' ')].length))
  const rating = length >= long ? 'long' : length >= fair ? 'acceptable' : 'too short'
  return (
    <>
      <Secret label="New password" autocomplete="new-password" value={value} onValue={onValue} describedBy={id} focus={focus} />
      <meter min={0} max={long} low={fair} high={fair} optimum={long} value={length} aria-label="Length" />
      <p id={id} class="muted">
        {value ? `${length} ${length === 1 ? 'character' : 'characters'}: ${rating}. ` : ''}
        Use at least {fair} characters, for example a few random words. Do not use a password from another site.
      </p>
    </>
  )
}

/** Owner is the hidden field by which a password manager finds the user of a password. */
export function Owner({ username }: { username: string }) {
  return <input class="unseen" type="text" autocomplete="username" aria-hidden="true" tabIndex={-1} readOnly value={username} />
}

export function Password({ username }: { username: string }) {
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
      <Owner username={username} />
      <Secret label="Current password" autocomplete="current-password" value={current} onValue={setCurrent} />
      <NewPassword value={chosen} onValue={setChosen} />
      <p class="muted">After the change, you must sign in again on all your devices.</p>
      <Trouble text={task.error} />
      <button type="submit" class="main" disabled={task.busy}>Change password</button>
    </form>
  )
}
