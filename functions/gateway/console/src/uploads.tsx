import { useEffect, useRef, useState } from 'preact/hooks'
import { discardUpload, uploadOffset } from './api'
import { size } from './format'
import { Problem } from './problem'
import { complain, say } from './ui'

/** Interrupted is an incomplete upload that tus-js-client has stored in localStorage. */
interface Interrupted {
  key: string
  name: string
  size: number
  url: string
  offset?: number
}

/** uploader is shared by all pages of the console, so that uploads continue while the user opens another page. */
let uploader: Promise<typeof import('./uploader')> | undefined

/** Uploads shows the interrupted uploads and the upload form. */
export function Uploads() {
  const place = useRef<HTMLDivElement>(null)
  const [left, setLeft] = useState<Interrupted[]>([])
  const [failed, setFailed] = useState(false)

  useEffect(() => {
    let unmounted = false
    let unwatch = () => {}
    uploader ??= import('./uploader')
    uploader.then(({ box, running }) => {
      if (unmounted) return
      place.current!.append(box)
      unwatch = running.watch((names) => setLeft((before) => before.filter((one) => !names.has(one.name))))
      void interrupted().then((found) => setLeft(found.filter((one) => !running.value.has(one.name))))
    }, () => {
      uploader = undefined
      setFailed(true)
    })
    return () => {
      unmounted = true
      unwatch()
    }
  }, [])

  async function discard(one: Interrupted) {
    await discardUpload(one.url).catch((error) => {
      if (!(error instanceof Problem && error.status === 404)) throw error
    })
    localStorage.removeItem(one.key)
    setLeft((before) => before.filter((other) => other.key !== one.key))
    say(`Discarded the upload of ${one.name}.`)
  }

  return (
    <section aria-label="Upload" class="uploads">
      {left.map((one) => (
        <div key={one.key} class="interrupted">
          <p>
            The upload of <strong>{one.name}</strong> was interrupted after {size(one.offset ?? 0)} of {size(one.size)}.
            To resume it, drop or choose the same file again.
          </p>
          <button type="button" aria-label={`Discard the upload of ${one.name}`} onClick={() => discard(one).catch(complain)}>Discard</button>
        </div>
      ))}
      <div ref={place} class="dashboard" />
      <p class="muted hint">After a lost connection, uploads resume automatically. If you close or reload this page, choose the same file again within a day to resume its upload.</p>
      {failed && <p class="trouble">The upload form could not be loaded. Reload the page.</p>}
    </section>
  )
}

/** interrupted returns the uploads that can be resumed. It removes complete and deleted uploads from localStorage. */
async function interrupted(): Promise<Interrupted[]> {
  const found: Interrupted[] = []
  for (const key of Object.keys(localStorage)) {
    if (!key.startsWith('tus::')) continue
    try {
      const { size, uploadUrl, metadata } = JSON.parse(localStorage.getItem(key)!)
      const offset = await uploadOffset(uploadUrl)
      if (offset < size) {
        found.push({ key, name: String(metadata.filename), size, url: uploadUrl, offset })
        continue
      }
    } catch (error) {
      // With 404 or 410, the upload has expired or belongs to another user. After any other problem, keep it for
      // the next visit.
      if (error instanceof Problem && error.status !== 404 && error.status !== 410) continue
    }
    localStorage.removeItem(key)
  }
  return found
}
