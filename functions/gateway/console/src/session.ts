import { usePasskey } from './passkey'
import { type Problem, problemOf, unreachable } from './problem'
import { Store } from './store'

/**
 * Session is the signed-in user. This module keeps the access token in memory only. The refresh token is in a
 * cookie that no script can read.
 */
export interface Session {
  user: { id: string; username: string; roles: string[] }
  admin: boolean
  restricted: boolean // until the user signs in with a second factor
}

/** session is the current session: undefined until the first refresh has ended, and null if no user is signed in. */
export const session = new Store<Session | null | undefined>(undefined)

/** farewell is the reason why the last session ended. The sign-in page shows it. */
export const farewell = new Store('')

let accessToken = ''
let goodUntil = 0
let refreshing: Promise<void> | undefined

/** margin is how long before its expiry an access token is refreshed, in milliseconds. */
const margin = 30_000

/** tabs is a channel to the other tabs. A tab sends a message when the user signs out. */
const tabs = new BroadcastChannel('strongroom')
tabs.onmessage = () => leave()

interface Answer {
  access_token: string
  expires_in: number
  scope: string
  user: Session['user']
}

async function send(method: string, path: string, body?: unknown): Promise<Response> {
  const init: RequestInit = { method, cache: 'no-store' }
  if (body !== undefined) {
    init.body = JSON.stringify(body)
    init.headers = { 'Content-Type': 'application/json' }
  }
  let response: Response
  try {
    response = await fetch(path, init)
  } catch {
    throw unreachable()
  }
  if (!response.ok && !(path === '/session/refresh' && response.status === 401)) {
    throw problemOf(response.status, await response.text(), response.headers.get('Retry-After'))
  }
  return response
}

/** lastUser is the ID of the last user of this page. */
let lastUser = ''

function begin(answer: Answer) {
  if (lastUser && lastUser !== answer.user.id) {
    location.reload() // removes the data of the previous user from the page
    return
  }
  lastUser = answer.user.id
  accessToken = answer.access_token
  goodUntil = Date.now() + answer.expires_in * 1000
  farewell.value = ''
  session.value = { user: answer.user, admin: answer.scope.split(' ').includes('accounts:manage'), restricted: answer.scope === '' }
}

/** signIn starts a session. If newPassword is given, it also replaces the password. */
export async function signIn(username: string, password: string, more: { new_password?: string; recovery_code?: string } = {}) {
  const response = await send('POST', '/session', { username: username.trim(), password, ...more })
  begin(await response.json())
}

export async function signInWithPasskey() {
  const { publicKey } = await (await send('POST', '/session/passkey/options')).json()
  const response = await send('POST', '/session/passkey', { credential: await usePasskey(publicKey) })
  begin(await response.json())
}

/** confirming is set while a request needs a recent sign-in. The dialog in confirm.tsx calls one of its functions. */
export const confirming = new Store<{ resolve: () => void; reject: (why: Problem) => void } | undefined>(undefined)

let confirmation: Promise<void> | undefined

/** confirm waits until the user has signed in again. It throws a Problem if the user cancels. */
export function confirm(): Promise<void> {
  confirmation ??= new Promise<void>((resolve, reject) => {
    confirming.value = { resolve, reject }
  }).finally(() => {
    confirmation = confirming.value = undefined
  })
  return confirmation
}

export async function signOut() {
  await send('DELETE', '/session')
  // The stored data of interrupted uploads contains file names.
  for (const key of Object.keys(localStorage)) if (key.startsWith('tus::')) localStorage.removeItem(key)
  tabs.postMessage('signed out')
  leave()
}

/** leave hides the page and loads it again, which clears the memory. */
function leave() {
  document.getElementById('console')!.hidden = true
  location.replace('/')
}

/** ended clears the session in this page. The sign-in page shows why as the reason. */
export function ended(why: string) {
  accessToken = ''
  farewell.value = why
  session.value = null
}

/**
 * refresh gets a new access token if there is a session. Tabs refresh one after another, because a refresh token is
 * valid only once.
 */
export function refresh(): Promise<void> {
  refreshing ??= alone(async () => {
    const response = await send('POST', '/session/refresh')
    if (response.status === 200) begin(await response.json())
    else ended(session.value ? 'Your session has ended. Sign in again to continue.' : '')
  }).finally(() => {
    refreshing = undefined
  })
  return refreshing
}

function alone(work: () => Promise<void>): Promise<void> {
  // Without TLS, a browser has no locks. For this case, the server accepts a refresh token several times within a short
  // time.
  return navigator.locks ? navigator.locks.request('strongroom-session', work) : work()
}

/** token returns an access token that remains valid for at least margin. */
export async function token(renew = false): Promise<string> {
  if (renew || Date.now() > goodUntil - margin) await refresh()
  return accessToken
}

// A page that the browser restores from its back/forward cache may show the data of a user who has signed out.
addEventListener('pageshow', (event) => {
  if (event.persisted) location.reload()
})
