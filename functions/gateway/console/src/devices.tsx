import { useEffect, useState } from 'preact/hooks'
import { endOtherSessions, endSession, listSessions, type DeviceSession } from './api'
import { When } from './format'
import { explain } from './problem'
import { complain, say, Trouble } from './ui'

/** Devices shows the user's sessions, and ends them. */
export function Devices() {
  const [sessions, setSessions] = useState<DeviceSession[]>()
  const [error, setError] = useState('')
  async function load() {
    setError('')
    try {
      setSessions((await listSessions()).sessions)
    } catch (thrown) {
      setError(explain(thrown))
    }
  }
  useEffect(() => void load(), [])
  async function end(work: () => Promise<unknown>, done: string) {
    await work()
    say(done)
    await load()
  }
  return (
    <section aria-label="Sessions" class="card list">
      <div class="tools">
        <p class="muted count">If you do not recognize a session, end it and change your password.</p>
        <button type="button" disabled={!sessions?.some((one) => !one.current)} onClick={() =>
          end(endOtherSessions, 'Ended all other sessions.').catch(complain)}>End all others</button>
      </div>
      <Trouble text={error} onRetry={load} />
      {!sessions && !error && <p class="muted empty">Loading…</p>}
      {sessions && (
        <table>
          <thead>
            <tr>
              <th scope="col">Device</th>
              <th scope="col" class="minor">IP address</th>
              <th scope="col" class="minor">Signed in</th>
              <th scope="col">Last used</th>
              <th scope="col"><span class="unseen">Actions</span></th>
            </tr>
          </thead>
          <tbody>
            {sessions.map((one) => {
              const device = one.device || 'Unknown device'
              return (
                <tr key={one.id} data-session={one.id} data-current={one.current}>
                  <th scope="row">{device}{one.current && <span class="muted"> (this session)</span>}</th>
                  <td class="minor">{one.address ?? ''}</td>
                  <td class="minor"><When at={one.created_at} /></td>
                  <td><When at={one.last_used_at} /></td>
                  <td class="actions">
                    {!one.current && <button type="button" aria-label={`End: ${device}`} onClick={() =>
                      end(() => endSession(one.id), `Ended the session on ${device}.`).catch(complain)}>End</button>}
                  </td>
                </tr>
              )
            })}
          </tbody>
        </table>
      )}
    </section>
  )
}
