import { useEffect, useRef, useState } from 'preact/hooks'
import { discardUpload, showFile, uploadOffset, type StoredFile } from './api'
import { size } from './format'
import { Problem } from './problem'
import { session } from './session'
import { Store } from './store'
import { complain, murmur, say } from './ui'

/** fresh are the files that were handed in since the page was loaded, newest first. */
export const fresh = new Store<StoredFile[]>([])

/** An upload that was begun and not finished, as tus-js-client remembers it. */
interface Interrupted {
  key: string
  name: string
  size: number
  url: string
  offset?: number
}

/** The uploader is one for the whole page, so that what it does goes on while another page of the console is shown. */
let uploader: Promise<typeof import('./uploader')> | undefined

/** Uploads takes files in. */
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
    say(`The upload of ${one.name} is discarded.`)
  }

  return (
    <section aria-label="Upload" class="uploads">
      {left.map((one) => (
        <div key={one.key} class="interrupted">
          <p>
            The upload of <strong>{one.name}</strong> was interrupted: {size(one.offset ?? 0)} of {size(one.size)} are here.
            Drop or choose the same file again and it goes on from there.
          </p>
          <button type="button" aria-label={`Discard the upload of ${one.name}`} onClick={() => discard(one).catch(complain)}>Discard</button>
        </div>
      ))}
      <div ref={place} class="dashboard" />
      <p class="muted hint">Lost connections mend themselves. If this page is closed or reloaded, choose the same file again within a day: it goes on where it stopped.</p>
      {failed && <p class="trouble">The part of this page that uploads could not be loaded. Load the page again.</p>}
    </section>
  )
}

/** interrupted returns what can be resumed, and forgets what can not. */
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
      // It has expired, or is somebody else's; or it can not be told now, and may be there the next time.
      if (error instanceof Problem && error.status !== 404 && error.status !== 410) continue
    }
    localStorage.removeItem(key)
  }
  return found
}

/** How long to wait before asking again whether a file is catalogued, in milliseconds: 40 s in all. */
const pauses = [200, 300, 500, 1000, 1000, 2000, 2000, 3000, 5000, 5000, 10_000, 10_000]

/** arrived shows a file that was handed in, and looks for its catalogue entry for a while. */
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
      if (fresh.value.find((other) => other.id === file.id)?.status === 'catalogued') return murmur(`${file.name} is catalogued.`)
    } catch (error) {
      if (!(error instanceof Problem) || ![0, 404, 503].includes(error.status)) return complain(error)
    }
  }
  become({ status: 'late' })
}
