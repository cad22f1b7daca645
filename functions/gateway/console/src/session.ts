import { problemOf, unreachable } from './problem'
import { Store } from './store'

/** Who is signed in. The access token is in this module's memory only, and the refresh token in a cookie that no script sees. */
export interface Session {
  user: { id: string; username: string; roles: string[] }
  admin: boolean
}

/** session is undefined until it is known whether there is one, and null where there is none. */
export const session = new Store<Session | null | undefined>(undefined)

/** farewell is why there is no session any more, for the sign-in page. */
export const farewell = new Store('')

let accessToken = ''
let goodUntil = 0
let refreshing: Promise<void> | undefined

/** margin is how long before its end a token is renewed, in milliseconds. */
const margin = 30_000

/** Tabs tell each other that somebody has signed out. */
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

/** lastUser is who has used this page. */
let lastUser = ''

function begin(answer: Answer) {
  if (lastUser && lastUser !== answer.user.id) {
    location.reload() // what somebody else had here is none of the next one's business
    return
  }
  lastUser = answer.user.id
  accessToken = answer.access_token
  goodUntil = Date.now() + answer.expires_in * 1000
  farewell.value = ''
  session.value = { user: answer.user, admin: answer.scope.split(' ').includes('accounts:manage') }
}

export async function signIn(username: string, password: string) {
  const response = await send('POST', '/session', { username, password })
  begin(await response.json())
}

export async function signOut() {
  await send('DELETE', '/session')
  // What could be resumed has names of files.
  for (const key of Object.keys(localStorage)) if (key.startsWith('tus::')) localStorage.removeItem(key)
  tabs.postMessage('signed out')
  leave()
}

/** leave forgets all that is in memory, and what the page shows. */
function leave() {
  document.getElementById('console')!.hidden = true
  location.replace('/')
}

/** ended notes that the server knows of no session any more. */
export function ended(why: string) {
  accessToken = ''
  farewell.value = why
  session.value = null
}

/** refresh gets a new access token, if there is a session. Tabs do it one after the other: a refresh token is good once. */
export function refresh(): Promise<void> {
  refreshing ??= alone(async () => {
    const response = await send('POST', '/session/refresh')
    if (response.status === 200) begin(await response.json())
    else ended(session.value ? 'Your session has ended. Sign in again to go on.' : '')
  }).finally(() => {
    refreshing = undefined
  })
  return refreshing
}

function alone(work: () => Promise<void>): Promise<void> {
  // Without TLS a browser has no locks; then the server's grace for a token that was used twice has to do.
  return navigator.locks ? navigator.locks.request('strongroom-session', work) : work()
}

/** token returns an access token that is good for a while. */
export async function token(renew = false): Promise<string> {
  if (renew || Date.now() > goodUntil - margin) await refresh()
  return accessToken
}

// A page that the browser kept as it was may show what somebody saw who has signed out since.
addEventListener('pageshow', (event) => {
  if (event.persisted) location.reload()
})
