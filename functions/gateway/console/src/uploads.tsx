import { useEffect, useRef, useState } from 'preact/hooks'
import { discardUpload, showFile, uploadOffset, type StoredFile } from './api'
import { size } from './format'
import { Problem } from './problem'
import { session } from './session'
import { Store } from './store'
import { complain, murmur, say } from './ui'

/** fresh is the list of the files that were uploaded since the page was loaded, newest first. */
export const fresh = new Store<StoredFile[]>([])

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

/** pauses are the intervals between requests for the status of a new file, in milliseconds. They add up to 40 s. */
const pauses = [200, 300, 500, 1000, 1000, 2000, 2000, 3000, 5000, 5000, 10_000, 10_000]

/**
 * arrived adds an uploaded file to fresh. Then it requests the status until the file is cataloged, at most for the
 * time in pauses.
 */
export async function arrived(file: { id: string; name: string; size: number; type: string }) {
  const owner = session.value?.user.id ?? ''
  fresh.value = [{
    id: file.id, owner, name: file.name, size: file.size, content_type: file.type || 'application/octet-stream', status: 'stored', stored_at: new Date().toISOString(),
  }, ...fresh.value]
  const become = (changed: Partial<StoredFile>) => {
    fresh.value = fresh.value.map((other) => (other.id === file.id ? { ...other, ...changed } : other))
  }
  for (const pause of pauses) {
    await new Promise((resolve) => setTimeout(resolve, pause))
    if (!session.value || !fresh.value.some((other) => other.id === file.id)) return
    try {
      become(await showFile(file.id))
      if (fresh.value.find((other) => other.id === file.id)?.status === 'catalogued') return murmur(`${file.name} is cataloged.`)
    } catch (error) {
      if (!(error instanceof Problem) || ![0, 404, 503].includes(error.status)) return complain(error)
    }
  }
  become({ status: 'late' })
}
