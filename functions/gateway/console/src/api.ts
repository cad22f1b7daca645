import { problemOf, unreachable } from './problem'
import { confirm, ended, token } from './session'

export interface StoredFile {
  id: string
  owner: string
  name: string
  size: number
  sha256?: string
  content_type: string
  status: 'stored' | 'catalogued' | 'late'
  stored_at: string
}

export interface Account {
  id: string
  username: string
  role: 'user' | 'admin'
  disabled: boolean
  has_passkey: boolean
  created_at: string
}

export interface Passkey {
  id: string
  name: string
  domain: string
  created_at: string
  used_at?: string
}

export interface PasskeyList {
  passkeys: Passkey[]
  recovery_codes: number
  second_factor: boolean
}

export interface AuditEntry {
  id: string
  at: string
  action: string
  actor: { id?: string; username: string }
  account: { id?: string; username: string }
  role?: string
  detail?: string
  address?: string
}

export interface DeviceSession {
  id: string
  current: boolean
  device?: string
  address?: string
  created_at: string
  last_used_at: string
}

/**
 * request sends a request with the access token. If the server rejects the token, request refreshes the token and
 * tries once more. If the server requires a recent sign-in (RFC 9470), request waits until the user has signed in
 * again, and tries once more.
 */
async function request(method: string, path: string, body?: unknown, headers: Record<string, string> = {}): Promise<Response> {
  let renew = false, renewed = false, confirmed = false
  for (;;) {
    const init: RequestInit = { method, cache: 'no-store', headers: { ...headers, Authorization: `Bearer ${await token(renew)}` } }
    renew = false
    if (body !== undefined) {
      init.body = JSON.stringify(body)
      init.headers = { ...init.headers, 'Content-Type': 'application/json' }
    }
    let response: Response
    try {
      response = await fetch(path, init)
    } catch {
      throw unreachable()
    }
    if (response.ok) return response
    const problem = problemOf(response.status, await response.text(), response.headers.get('Retry-After'))
    const old = problem.kind === 'sign-in-too-old'
    if (old && !confirmed) {
      await confirm()
      confirmed = true
      continue
    }
    if (response.status === 401 && !old && !renewed) {
      renew = renewed = true
      continue
    }
    if (response.status === 401 && !old) ended('Your session has ended. Sign in again to continue.')
    throw problem
  }
}

async function json<T>(method: string, path: string, body?: unknown): Promise<T> {
  return (await request(method, path, body)).json()
}

function query(parameters: Record<string, string | undefined>): string {
  const given = Object.entries(parameters).filter((entry): entry is [string, string] => Boolean(entry[1]))
  return given.length ? '?' + new URLSearchParams(given) : ''
}

const file = (id: string) => `/files/${encodeURIComponent(id)}`

export const listFiles = (q: string, owner: string, sort: string, cursor: string) =>
  json<{ files: StoredFile[]; next?: string }>('GET', '/files' + query({ q, owner, sort, cursor, limit: '50' }))
export const showFile = (id: string) => json<StoredFile>('GET', file(id))
export const deleteFile = (id: string) => request('DELETE', file(id))
export const linkFile = (id: string, seconds: number) =>
  json<{ url: string; expires_at: string }>('POST', file(id) + '/link', { expires_in: seconds })

/** content returns at most the first limit bytes of a file. */
export async function content(id: string, limit: number): Promise<Blob> {
  const response = await request('GET', file(id) + '/content', undefined, { Range: `bytes=0-${limit - 1}` })
  return response.blob()
}

/** discardUpload terminates an incomplete upload. */
export const discardUpload = (url: string) => request('DELETE', url, undefined, { 'Tus-Resumable': '1.0.0' })

/** uploadOffset returns how many bytes of an upload the server has stored. */
export async function uploadOffset(url: string): Promise<number> {
  const response = await request('HEAD', url, undefined, { 'Tus-Resumable': '1.0.0' })
  return Number(response.headers.get('Upload-Offset'))
}

const account = (id: string) => `/accounts/${encodeURIComponent(id)}`

export const listAccounts = (cursor: string) => json<{ accounts: Account[]; next?: string }>('GET', '/accounts' + query({ cursor, limit: '100' }))
export const createAccount = (username: string, password: string, role: string) => json<Account>('POST', '/accounts', { username, password, role })
export const changeAccount = (id: string, change: { role?: string; disabled?: boolean; password?: string }) => json<Account>('PATCH', account(id), change)
export const unlockAccount = (id: string) => request('DELETE', account(id) + '/lockout')
export const endSessionsOf = (id: string) => request('DELETE', account(id) + '/sessions')
export const listAudit = (cursor: string) => json<{ entries: AuditEntry[]; next?: string }>('GET', '/accounts/audit' + query({ cursor, limit: '50' }))
export const listSessions = () => json<{ sessions: DeviceSession[] }>('GET', '/sessions')
export const endSession = (id: string) => request('DELETE', `/sessions/${encodeURIComponent(id)}`)
export const endOtherSessions = () => request('DELETE', '/sessions')
export const changePassword = (current: string, chosen: string) =>
  request('PUT', '/accounts/me/password', { current_password: current, new_password: chosen })

const passkey = (id: string) => `/accounts/me/passkeys/${encodeURIComponent(id)}`

export const listPasskeys = () => json<PasskeyList>('GET', '/accounts/me/passkeys')
export const passkeyOptions = () => json<{ publicKey: PublicKeyCredentialCreationOptionsJSON }>('POST', '/accounts/me/passkeys/options')
export const addPasskey = (credential: unknown, name: string) => json<Passkey>('POST', '/accounts/me/passkeys', { credential, name })
export const renamePasskey = (id: string, name: string) => json<Passkey>('PATCH', passkey(id), { name })
export const removePasskey = (id: string) => request('DELETE', passkey(id))
export const removePasskeysOf = (id: string) => request('DELETE', account(id) + '/passkeys')
export const createRecoveryCodes = async () =>
  (await json<{ recovery_codes: string[] }>('POST', '/accounts/me/recovery-codes')).recovery_codes
export const showSecondFactors = async () => (await json<{ roles: string[] }>('GET', '/accounts/second-factor')).roles
export const setSecondFactors = async (roles: string[]) => (await json<{ roles: string[] }>('PUT', '/accounts/second-factor', { roles })).roles
