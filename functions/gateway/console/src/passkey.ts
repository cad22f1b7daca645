import { Problem } from './problem'

/** supported reports whether the browser supports passkeys on this page. Browsers require HTTPS, except at localhost. */
export const supported = 'PublicKeyCredential' in window && 'parseRequestOptionsFromJSON' in PublicKeyCredential

/** createPasskey creates a passkey in an authenticator, and returns the response of the authenticator. */
export async function createPasskey(options: PublicKeyCredentialCreationOptionsJSON): Promise<unknown> {
  const publicKey = PublicKeyCredential.parseCreationOptionsFromJSON(options)
  return ask(() => navigator.credentials.create({ publicKey }))
}

/** usePasskey lets the user select a passkey, and returns the response of the authenticator. */
export async function usePasskey(options: PublicKeyCredentialRequestOptionsJSON): Promise<unknown> {
  const publicKey = PublicKeyCredential.parseRequestOptionsFromJSON(options)
  return ask(() => navigator.credentials.get({ publicKey }))
}

async function ask(work: () => Promise<Credential | null>): Promise<unknown> {
  try {
    return ((await work()) as PublicKeyCredential).toJSON()
  } catch (thrown) {
    const name = thrown instanceof DOMException ? thrown.name : ''
    if (name === 'InvalidStateError') throw new Problem(0, 'passkey', 'This device already has a passkey for your account.')
    // For privacy, a browser does not reveal whether the user canceled the request or has no passkey.
    if (name === 'NotAllowedError' || name === 'AbortError') throw new Problem(0, 'passkey', 'The request for a passkey was canceled, or it timed out.')
    throw thrown
  }
}
