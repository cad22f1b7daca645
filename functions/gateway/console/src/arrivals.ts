import { showFile, type StoredFile } from './api'
import { Problem } from './problem'
import { session } from './session'
import { Store } from './store'
import { complain, murmur } from './ui'

/** fresh is the list of the files that were uploaded since the page was loaded, newest first. */
export const fresh = new Store<StoredFile[]>([])

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
