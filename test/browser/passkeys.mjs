// Tests passkeys in Chromium with a virtual authenticator
// (https://chromedevtools.github.io/devtools-protocol/tot/WebAuthn/). The environment is that of console.mjs.
// STRONGROOM_URL must have the host localhost, because browsers support passkeys only with HTTPS and at localhost. The
// exit status is not 0 if a step fails.
import assert from 'node:assert/strict'
import { open } from './page.mjs'

const { STRONGROOM_URL: url, STRONGROOM_USERNAME: admin, STRONGROOM_PASSWORD: password, OUTPUT: output } = process.env
const patience = 30_000

const browser = await open(url, output)
const { page } = browser
page.setDefaultTimeout(patience)
const cdp = await page.context().newCDPSession(page)
await cdp.send('WebAuthn.enable', { enableUI: false })
const { authenticatorId } = await cdp.send('WebAuthn.addVirtualAuthenticator', {
  options: { protocol: 'ctap2', transport: 'internal', hasResidentKey: true, hasUserVerification: true, isUserVerified: true, automaticPresenceSimulation: true },
})
let codes

try {
  await browser.step('add a passkey and rename it', async () => {
    await page.goto(url)
    await signIn()
    await page.getByRole('link', { name: 'Passkeys' }).click()
    await page.getByText('You have no passkeys.').waitFor()
    await browser.look('passkeys-empty')
    await page.getByRole('button', { name: 'Add a passkey' }).click()
    await page.getByLabel('Name', { exact: true }).fill('Key')
    await page.getByRole('button', { name: 'Add', exact: true }).click()
    await page.locator('tr[data-passkey="Key"]').getByText('localhost').waitFor()
    await page.getByRole('button', { name: 'Rename: Key' }).click()
    await page.getByLabel('Name', { exact: true }).fill('Laptop')
    await page.getByRole('button', { name: 'Rename', exact: true }).click()
    await page.locator('tr[data-passkey="Laptop"]').waitFor()
  })

  await browser.step('refuse a second passkey on the same device', async () => {
    await page.getByRole('button', { name: 'Add a passkey' }).click()
    await page.getByLabel('Name', { exact: true }).fill('Again')
    await page.getByRole('button', { name: 'Add', exact: true }).click()
    await page.getByText('This device already has a passkey for your account.').waitFor()
    await page.getByRole('button', { name: 'Cancel' }).click()
  })

  await browser.step('create recovery codes', async () => {
    await page.getByRole('button', { name: 'New recovery codes' }).click()
    codes = (await page.locator('pre.codes').innerText()).split('\n')
    assert.equal(codes.length, 10)
    await browser.look('recovery-codes')
    await page.getByRole('button', { name: 'Done' }).click()
    await page.getByText('You have 10 unused recovery codes.').waitFor()
    await browser.look('passkeys')
    await signOut()
  })

  await browser.step('sign in without a user name', async () => {
    await page.getByRole('button', { name: 'Sign in with a passkey' }).click()
    await page.getByRole('heading', { name: 'Passkeys' }).or(page.getByRole('heading', { name: 'My files' })).waitFor()
    await page.getByText(admin, { exact: true }).waitFor()
  })

  await browser.step('require a second factor for admins, and confirm with a passkey', async () => {
    await signOut()
    await signIn()
    await page.getByRole('link', { name: 'Accounts' }).click()
    const box = page.getByLabel('Require a second factor for admins')
    await box.waitFor()
    // The first request gets the response to a sign-in that is too old, so that the test does not have to wait. The
    // server accepts the second request only after a sign-in with a passkey.
    await page.route('**/accounts/second-factor', (route) => route.fulfill({
      status: 401, contentType: 'application/problem+json',
      body: JSON.stringify({ type: 'urn:strongroom:problem:sign-in-too-old', title: 'A recent sign-in is required', status: 401 }),
    }), { times: 1 })
    await box.click()
    await page.getByRole('heading', { name: 'Confirm your password' }).waitFor()
    await page.getByRole('button', { name: 'Use a passkey' }).click()
    await page.locator('input:checked').waitFor()
    await browser.look('second-factor')
    await signOut()
    await signIn()
    await page.getByLabel('Recovery code').waitFor()
    await browser.look('sign-in-recovery-code')
    await page.getByLabel('Recovery code').fill('AAAA-AAAA-AAAA-AAAA-AAAA-AAAA')
    await page.getByRole('button', { name: 'Sign in', exact: true }).click()
    await page.getByText('The recovery code is wrong or was already used').waitFor()
    await page.getByLabel('Recovery code').fill(codes[0])
    await page.getByRole('button', { name: 'Sign in', exact: true }).click()
    await page.getByRole('link', { name: 'Accounts' }).waitFor()
    await signOut()
  })

  await browser.step('refuse a passkey without user verification, and a repeated response', async () => {
    await cdp.send('WebAuthn.setUserVerified', { authenticatorId, isUserVerified: false })
    await page.getByRole('button', { name: 'Sign in with a passkey' }).click()
    await page.getByText('The request for a passkey was canceled, or it timed out.').waitFor()
    await cdp.send('WebAuthn.setUserVerified', { authenticatorId, isUserVerified: true })
    const sent = page.waitForRequest((request) => request.url().endsWith('/session/passkey'))
    await page.getByRole('button', { name: 'Sign in with a passkey' }).click()
    const body = (await sent).postData()
    await page.getByRole('link', { name: 'Accounts' }).waitFor()
    const again = await fetch(url + '/session/passkey', { method: 'POST', headers: { 'Content-Type': 'application/json' }, body })
    assert.equal(again.status, 401, 'a repeated response is accepted')
    assert.equal((await again.json()).type, 'urn:strongroom:problem:bad-passkey')
  })

  await browser.step('refuse a passkey for another address', async () => {
    // The page asks for a passkey with options of another address. The browser refuses the options.
    const error = await page.evaluate(async () => {
      const { publicKey } = await (await fetch('/session/passkey/options', { method: 'POST' })).json()
      publicKey.rpId = 'strongroom.example'
      return navigator.credentials.get({ publicKey: PublicKeyCredential.parseRequestOptionsFromJSON(publicKey) }).then(() => '', (thrown) => thrown.name)
    })
    assert.equal(error, 'SecurityError')
  })

  await browser.step('remove the passkey', async () => {
    await page.getByRole('link', { name: 'Accounts' }).click()
    await page.getByLabel('Require a second factor for admins').click()
    await page.locator('input:checked').waitFor({ state: 'detached' })
    await page.getByRole('link', { name: 'Passkeys' }).click()
    await page.getByRole('button', { name: 'Remove: Laptop' }).click()
    await page.getByRole('button', { name: 'Remove', exact: true }).click()
    await page.getByText('You have no passkeys.').waitFor()
    await signOut()
    await page.getByRole('button', { name: 'Sign in with a passkey' }).click()
    await page.getByText('The passkey is not accepted').waitFor()
  })
  browser.check()
} catch (error) {
  await browser.failed()
  throw error
} finally {
  await browser.close()
}

async function signIn() {
  await page.getByLabel('User name').fill(admin)
  await page.getByLabel('Password', { exact: true }).fill(password)
  await page.getByRole('button', { name: 'Sign in', exact: true }).click()
}

async function signOut() {
  await page.getByRole('button', { name: 'Sign out' }).click()
  await page.getByRole('button', { name: 'Sign in', exact: true }).waitFor()
}
