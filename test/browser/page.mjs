// Starts Chromium with one page. During a test, it checks the accessibility of the page, violations of the content
// security policy, errors in the browser log, and requests to other sites.
import assert from 'node:assert/strict'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { chromium } from 'playwright-core'

const axe = await readFile(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8')

/** The combinations of theme and window size in which look examines every page. */
const looks = {
  light: { scheme: 'light', viewport: { width: 1280, height: 860 } },
  dark: { scheme: 'dark', viewport: { width: 1280, height: 860 } },
  phone: { scheme: 'light', viewport: { width: 390, height: 844 } },
}

/** open starts Chromium for a test of the console at url. Screenshots go to the directory output. */
export async function open(url, output) {
  const home = await mkdtemp(join(tmpdir(), 'strongroom-browser-'))
  const context = await chromium.launchPersistentContext(home, {
    executablePath: process.env.CHROMIUM,
    headless: true,
    chromiumSandbox: process.getuid() !== 0, // Chromium cannot run as root with its sandbox
    args: ['--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync'],
    viewport: looks.light.viewport,
    colorScheme: 'light',
    locale: 'en-GB',
    timezoneId: 'Europe/Berlin',
    acceptDownloads: true,
    permissions: ['clipboard-read', 'clipboard-write'],
  })
  const page = context.pages()[0] ?? (await context.newPage())
  const cdp = await context.newCDPSession(page)
  const faults = []
  await page.exposeFunction('violated', (text) => faults.push(`content security policy: ${text}`))
  await page.addInitScript(() => {
    addEventListener('securitypolicyviolation', (event) => {
      window.violated(`${event.effectiveDirective} ${event.blockedURI} ${event.sourceFile}:${event.lineNumber}`)
    })
  })
  page.on('pageerror', (error) => faults.push(`a script failed: ${error.stack}`))
  page.on('console', (message) => {
    // Chromium logs a hint with the prefix [DOM] if password managers could misunderstand a form.
    if (message.text().startsWith('[DOM]')) faults.push(`hint in the browser log: ${message.text()}`)
    // The browser also logs every response with an error status, such as 401 after a wrong password. Such a log message
    // is not a fault.
    if (message.type() === 'error' && !message.text().startsWith('Failed to load resource')) faults.push(`error in the browser log: ${message.text()}`)
  })
  page.on('request', (request) => {
    const to = new URL(request.url())
    if (to.protocol.startsWith('http') && to.origin !== new URL(url).origin) faults.push(`request to another site: ${request.url()}`)
  })
  let taken = 0

  return {
    page,

    /** step runs a step of the test and prints its duration. */
    async step(what, work) {
      const begin = Date.now()
      await work()
      console.log(`ok  ${what} (${((Date.now() - begin) / 1000).toFixed(1)} s)`)
    },

    /** look takes a screenshot of the page in every look, and checks the page with axe. */
    async look(name) {
      taken++
      for (const [look, { scheme, viewport }] of Object.entries(looks)) {
        await page.emulateMedia({ colorScheme: scheme, reducedMotion: 'reduce' })
        await page.setViewportSize(viewport)
        await page.waitForTimeout(250)
        await page.screenshot({ path: join(output, `${String(taken).padStart(2, '0')}-${name}-${look}.png`) })
        const wide = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth)
        if (wide > 0) faults.push(`${name} (${look}) is ${wide} px wider than the window`)
        await page.evaluate(axe)
        const { violations } = await page.evaluate(() => window.axe.run(document, { resultTypes: ['violations'] }))
        for (const { id, impact, help, nodes } of violations) {
          const where = nodes.map((node) => `${node.target}: ${node.any[0]?.message ?? ''}`).slice(0, 4).join('; ')
          if (['serious', 'critical'].includes(impact)) faults.push(`axe on ${name} (${look}): ${impact}: ${id}: ${help}: ${where}`)
          else console.log(`    axe on ${name} (${look}): ${impact}: ${id}: ${where}`)
        }
      }
      await page.emulateMedia({ colorScheme: 'light', reducedMotion: 'reduce' })
      await page.setViewportSize(looks.light.viewport)
    },

    /** drop drags a file from outside the browser onto an element. */
    async drop(selector, file) {
      const box = await page.locator(selector).boundingBox()
      const at = { x: box.x + box.width / 2, y: box.y + box.height / 2, data: { items: [], files: [file], dragOperationsMask: 1 } }
      for (const type of ['dragEnter', 'dragOver', 'drop']) await cdp.send('Input.dispatchDragEvent', { type, ...at })
    },

    /** slow(true) limits the upload speed to 32 Mbit/s, so that an upload takes some seconds. slow(false) ends that. */
    async slow(on) {
      await cdp.send('Network.enable')
      await cdp.send('Network.emulateNetworkConditions', { offline: false, latency: 0, downloadThroughput: -1, uploadThroughput: on ? 4_000_000 : -1 })
    },

    /** check fails if the page had any faults. */
    check() {
      assert.deepEqual(faults, [], faults.join('\n'))
    },

    /** failed prints the faults and the text of the page, and takes a screenshot. */
    async failed() {
      console.error(faults.join('\n'))
      await page.screenshot({ path: join(output, 'failed.png') }).catch(() => {})
      console.error(await page.locator('body').innerText().catch(() => ''))
    },

    /** close closes the browser and deletes its profile. */
    async close() {
      await context.close()
      await rm(home, { recursive: true, force: true })
    },
  }
}
