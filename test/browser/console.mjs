// Tests the console in Chromium. The environment must contain STRONGROOM_URL, STRONGROOM_USERNAME and
// STRONGROOM_PASSWORD of an admin, OUTPUT (the directory for screenshots) and CHROMIUM (the path of the browser). The
// exit status is not 0 if a step fails.
import assert from 'node:assert/strict'
import { createHash, randomBytes } from 'node:crypto'
import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { open } from './page.mjs'

const { STRONGROOM_URL: url, STRONGROOM_USERNAME: admin, STRONGROOM_PASSWORD: adminPassword, OUTPUT: output } = process.env
const size = 50_000_000
const user = `browser-${randomBytes(4).toString('hex')}`
const initialPassword = randomBytes(9).toString('base64url')
const password = randomBytes(9).toString('base64url')
// This timeout, in milliseconds, includes the time in which a cluster starts functions that are scaled to zero.
const patience = 60_000

const sha256 = (bytes) => createHash('sha256').update(bytes).digest('hex')
const big = join(output, 'ledger.bin')
const bytes = randomBytes(size)
await writeFile(big, bytes)
const note = join(output, 'note <b>&.txt')
await writeFile(note, 'The safe is behind the picture.\n<script>alert(1)</script>\n'.repeat(12))

const browser = await open(url, output)
const { page } = browser
page.setDefaultTimeout(patience)
try {
  await browser.step('sign in as an admin and create a user', async () => {
    await page.goto(url)
    await browser.look('sign-in')
    await signIn(admin, 'not the password')
    await page.getByRole('alert').getByText('The user name or password is wrong').waitFor()
    await signIn(admin, adminPassword)
    await page.getByRole('heading', { name: 'My files' }).waitFor()
    await page.getByRole('link', { name: 'Accounts' }).click()
    await page.getByRole('button', { name: 'New account' }).click()
    await browser.look('account-new')
    await page.getByLabel('User name').fill(user)
    await page.getByLabel('New password').fill(user)
    await page.getByRole('button', { name: 'Create' }).click()
    await page.getByRole('alert').getByText('must not consist mainly of the user name').waitFor()
    await page.getByLabel('New password').fill(initialPassword)
    await page.getByRole('button', { name: 'Create' }).click()
    await page.locator(`tr[data-account="${user}"][data-disabled="false"]`).waitFor()
    await page.getByRole('button', { name: `Reset password: ${user}` }).click()
    await browser.look('account-reset')
    await owned(page.getByRole('dialog'), user)
    await page.keyboard.press('Escape')
    await signOut()
  })

  await browser.step('replace the initial password at the first sign-in', async () => {
    // Copy the new password with the keyboard, because a page without TLS has no navigator.clipboard.
    const name = page.getByLabel('User name')
    await name.fill(password)
    await name.press('Control+A')
    await name.press('Control+C')
    await signIn(`${user} `, initialPassword) // keyboards of phones add a space after the name
    await page.getByRole('heading', { name: 'Choose a new password' }).waitFor()
    await owned(page.locator('form'), user)
    const field = page.getByLabel('New password')
    await browser.look('new-password')
    const submit = page.getByRole('button', { name: 'Change password and sign in' })
    await field.fill('qwertyqwerty')
    await submit.click()
    await page.getByRole('alert').getByText('list of breached passwords').waitFor()
    await field.fill('🔑'.repeat(5))
    await page.getByText('5 characters: too short').waitFor()
    await submit.click()
    await page.getByRole('alert').getByText('must have 12 to 128 characters').waitFor()
    await field.fill('')
    await field.press('Control+V')
    await page.getByText('12 characters: acceptable').waitFor()
    assert.equal(await field.getAttribute('type'), 'password')
    await page.getByRole('button', { name: 'Show password' }).click()
    assert.deepEqual([await field.getAttribute('type'), await field.inputValue()], ['text', password])
    await submit.click()
    await page.getByRole('heading', { name: 'My files' }).waitFor()
    await signOut()
  })

  await browser.step('drop a file of 50 MB, pause and resume the upload', async () => {
    await signIn(user, password)
    await page.getByRole('heading', { name: 'My files' }).waitFor()
    assert.equal(await page.getByRole('link', { name: 'Accounts' }).count(), 0, 'a user has a link to the pages of admins')
    await page.locator('.uppy-Dashboard-AddFiles').waitFor()
    await browser.look('files-empty')
    await browser.slow(true)
    await browser.drop('.uppy-Dashboard-AddFiles', big)
    await progress(8)
    await page.getByRole('button', { name: 'Pause', exact: true }).click()
    const resume = page.getByRole('button', { name: 'Resume', exact: true })
    await resume.waitFor()
    await page.waitForTimeout(1500) // the page shows the last progress with a delay
    const paused = await percent()
    await page.waitForTimeout(1500)
    assert.ok((await percent()) <= paused + 1, 'the upload continues while it is paused')
    await resume.click()
    await progress(paused + 8)
    await browser.look('files-uploading')
  })

  await browser.step('reload the page during the upload, drop the file again and resume', async () => {
    await page.reload()
    const interrupted = page.locator('.interrupted')
    await interrupted.waitFor()
    await browser.look('files-interrupted')
    const requests = []
    page.on('request', (request) => {
      if (request.url().includes('/upload/tus/')) requests.push([request.method(), Number(request.headers()['upload-offset'])])
    })
    await browser.slow(false)
    await browser.drop('.uppy-Dashboard-AddFiles', big)
    await page.locator('tr[data-state="catalogued"]').filter({ hasText: 'ledger.bin' }).waitFor()
    const first = requests.find(([method]) => method === 'PATCH')
    assert.ok(first && first[1] > 0 && first[1] < size, `the upload started again at offset 0: ${JSON.stringify(requests)}`)
    assert.ok(!requests.some(([method]) => method === 'POST'), 'the console created another upload')
    console.log(`    resumed at byte ${first[1]}`)
    assert.deepEqual(await page.evaluate(() => Object.keys(localStorage).filter((key) => key.startsWith('tus::'))), [], 'the local storage has an interrupted upload after the upload is complete')
  })

  await browser.step('preview, search, share and download', async () => {
    const done = page.getByRole('button', { name: 'Done', exact: true })
    if (await done.count()) await done.click()
    const picture = join(output, 'door.png')
    await writeFile(picture, await page.screenshot())
    await page.locator('input.uppy-Dashboard-input').first().setInputFiles([note, picture])
    for (const name of ['note', 'door.png']) await page.locator('tr[data-state="catalogued"]').filter({ hasText: name }).waitFor()
    await browser.look('files')
    await row('note').getByRole('button').first().click()
    await page.locator('pre.preview', { hasText: '<script>' }).waitFor()
    await browser.look('file-text')
    await page.keyboard.press('Escape')
    assert.match(await page.evaluate(() => document.activeElement.textContent), /^note/, 'the focus does not return after the dialog is closed')
    await row('door.png').getByRole('button').first().click()
    await page.waitForFunction(() => document.querySelector('.preview img')?.naturalWidth > 0)
    await browser.look('file-picture')
    await page.keyboard.press('Escape')

    await page.getByRole('searchbox').fill('LEDGER')
    await page.getByText('1 file found').waitFor()
    assert.equal(await page.locator('tbody tr').count(), 1)
    await page.getByRole('searchbox').fill('')
    await row('note').waitFor()
    for (const [order, first] of [['Largest first', 'ledger.bin'], ['Name, A to Z', 'door.png']]) {
      await page.getByLabel('Sort').selectOption(order)
      await page.locator('tbody tr').first().filter({ hasText: first }).waitFor()
    }
    await page.getByLabel('Sort').selectOption('Newest first')
    await page.getByRole('searchbox').fill('LEDGER')
    await page.getByText('1 file found').waitFor()
    await page.getByRole('button', { name: 'Share ledger.bin' }).click()
    await page.getByRole('button', { name: 'Create link' }).click()
    const link = await page.getByLabel(/^Link, valid until/).inputValue()
    await browser.look('link')
    await page.keyboard.press('Escape')
    assert.equal(sha256(Buffer.from(await (await fetch(link)).arrayBuffer())), sha256(bytes), 'the link returns other content than the uploaded file')

    const [download] = await Promise.all([page.waitForEvent('download'), page.getByRole('button', { name: 'Download ledger.bin' }).click()])
    assert.equal(download.suggestedFilename(), 'ledger.bin')
    assert.equal(sha256(await readFile(await download.path())), sha256(bytes), 'the download has other content than the uploaded file')
  })

  await browser.step('delete, sign out, and see no content with the back button', async () => {
    await page.getByRole('button', { name: 'Delete ledger.bin' }).click()
    await browser.look('delete')
    await page.getByRole('button', { name: 'Delete', exact: true }).click()
    await page.getByText('No files match your search.').waitFor()
    await page.getByRole('searchbox').fill('')
    await row('note').waitFor()
    // A deleted file can be uploaded again, although the upload form still shows the first upload.
    await row('note').getByRole('button', { name: /^Delete/ }).click()
    await page.getByRole('button', { name: 'Delete', exact: true }).click()
    await row('note').waitFor({ state: 'detached' })
    await browser.drop('.uppy-Dashboard-inner', note)
    await page.locator('tr[data-state="catalogued"]').filter({ hasText: 'note' }).waitFor()
    await page.getByRole('link', { name: 'Password' }).click()
    await page.getByRole('heading', { name: 'Change password' }).waitFor()
    await browser.look('password')
    await owned(page.locator('form'), user)
    await signOut()
    for (let back = 0; back < 3; back++) {
      await page.goBack().catch(() => {}) // fails if the history has no earlier page
      await page.waitForTimeout(300)
      const text = await page.locator('body').innerText()
      assert.ok(!text.includes('note') && !text.includes(user) && !text.includes('My files'), `the back button shows: ${text}`)
    }
    await page.goto(url)
    await page.getByRole('button', { name: 'Sign in', exact: true }).waitFor()
  })

  await browser.step('as an admin: list all files, disable the user, read the audit log', async () => {
    await signIn(admin, adminPassword)
    await page.getByRole('link', { name: 'All files' }).click()
    await page.getByLabel('Owner').selectOption({ label: user })
    await page.getByText('2 files', { exact: true }).waitFor()
    await row('door.png').waitFor()
    await browser.look('admin-files')
    await page.getByRole('link', { name: 'Accounts' }).click()
    // The first change gets the response to a sign-in that is too old, so that the test does not have to wait.
    await page.route('**/accounts/*', (route) => route.fulfill({
      status: 401, contentType: 'application/problem+json',
      body: JSON.stringify({ type: 'urn:strongroom:problem:sign-in-too-old', title: 'A recent sign-in is required', status: 401 }),
    }), { times: 1 })
    await page.getByRole('button', { name: `Disable: ${user}` }).click()
    await page.getByRole('heading', { name: 'Confirm your password' }).waitFor()
    await browser.look('confirm')
    await owned(page.locator('dialog form'), admin)
    await page.getByLabel(`Password of ${admin}`).fill(adminPassword)
    await page.getByRole('button', { name: 'Confirm', exact: true }).click()
    await page.locator(`tr[data-account="${user}"][data-disabled="true"]`).waitFor()
    await browser.look('admin-accounts')
    await page.getByRole('link', { name: 'Audit log' }).click()
    for (const action of ['user.created', 'user.disabled']) await page.locator(`tr[data-account="${user}"][data-action="${action}"]`).waitFor()
    await browser.look('admin-audit')
    const other = await page.request.post(new URL('/login', url).href, { form: { username: admin, password: adminPassword }, headers: { 'User-Agent': 'another device' } })
    assert.equal(other.status(), 200)
    await page.getByRole('link', { name: 'Sessions' }).click()
    await page.getByText('(this session)').waitFor()
    await browser.look('sessions')
    await page.getByRole('button', { name: 'End: another device' }).click()
    await page.getByRole('button', { name: 'End: another device' }).waitFor({ state: 'detached' })
    await page.getByRole('link', { name: 'Audit log' }).click()
    await page.reload()
    await page.getByRole('heading', { name: 'Audit log' }).waitFor() // the session continues after a reload
    await page.getByRole('link', { name: 'All files' }).click()
    await page.getByLabel('Owner').selectOption({ label: user })
    await page.getByText('2 files', { exact: true }).waitFor()
    for (const name of ['note', 'door.png']) {
      await row(name).getByRole('button', { name: /^Delete/ }).click()
      await page.getByRole('button', { name: 'Delete', exact: true }).click()
      await row(name).waitFor({ state: 'detached' })
    }
    await signOut()
    await signIn(user, password)
    // The message must not reveal that the user is disabled.
    await page.getByRole('alert').getByText('The user name or password is wrong').waitFor()
  })
  await browser.step('delete the user', deleteUser)
  browser.check()
} catch (error) {
  await browser.failed()
  throw error
} finally {
  await browser.close()
}

async function signIn(name, secret) {
  await page.getByLabel('User name').fill(name)
  await page.getByLabel('Password').fill(secret)
  await page.getByRole('button', { name: 'Sign in', exact: true }).click()
}

/** owned checks that a form has a field with the name of the user, which password managers need. */
async function owned(form, name) {
  assert.equal(await form.locator('input[autocomplete~="username"]').inputValue(), name)
}

async function signOut() {
  await page.getByRole('button', { name: 'Sign out' }).click()
  await page.getByRole('button', { name: 'Sign in', exact: true }).waitFor()
}

/** deleteUser deletes the user through the API, because the console cannot delete users. */
async function deleteUser() {
  const json = async (path, init) => {
    const response = await fetch(url + path, init)
    assert.ok(response.ok, `${path}: ${response.status}`)
    return response.status === 204 ? null : response.json()
  }
  const { access_token } = await json('/login', { method: 'POST', body: new URLSearchParams({ username: admin, password: adminPassword }) })
  const headers = { Authorization: `Bearer ${access_token}` }
  let cursor = ''
  do {
    const page = await json(`/accounts?limit=100&cursor=${encodeURIComponent(cursor)}`, { headers })
    const found = page.accounts.find((account) => account.username === user)
    if (found) return json(`/accounts/${found.id}`, { method: 'DELETE', headers })
    cursor = page.next
  } while (cursor)
  assert.fail(`the list of accounts has no user ${user}`)
}

/** row returns the table row that contains text. */
function row(text) {
  return page.locator('tbody tr').filter({ hasText: text })
}

/** percent returns the progress of the upload in percent. */
async function percent() {
  return Number(await page.locator('.uppy-StatusBar [role="progressbar"]').getAttribute('aria-valuenow'))
}

/** progress waits until the upload has reached atLeast percent. The upload must then not be nearly complete. */
async function progress(atLeast) {
  await page.waitForFunction((n) => Number(document.querySelector('.uppy-StatusBar [role="progressbar"]')?.getAttribute('aria-valuenow')) >= n, atLeast)
  const now = await percent()
  assert.ok(now < 90, `the upload is at ${now}%, want less than 90%`)
}
