import Uppy from '@uppy/core'
import Dashboard from '@uppy/dashboard'
import Tus from '@uppy/tus'
import '@uppy/core/css/style.min.css'
import '@uppy/dashboard/css/style.min.css'
import './uploader.css'
import { arrived, fresh } from './arrivals'
import { problemOf } from './problem'
import { token } from './session'
import { Store } from './store'
import { complain } from './ui'

/**
 * piece is the number of bytes in one request. A request must end before it times out and before its access token
 * expires. After a lost connection, at most this many bytes are sent again.
 */
const piece = 32 << 20

/** box is the element with the upload form. A page that shows the form appends it. */
export const box = document.createElement('div')

/** running is the set of the names of the files in the upload form. */
export const running = new Store(new Set<string>())

const uppy = new Uppy({ autoProceed: true })
uppy.use(Dashboard, {
  inline: true,
  target: box,
  width: '100%',
  height: 280,
  theme: 'auto',
  proudlyDisplayPoweredByUppy: false,
  fileManagerSelectionType: 'files',
  singleFileFullScreen: false,
  doneButtonHandler: () => uppy.clear(),
})
uppy.use(Tus, {
  endpoint: `${location.origin}/upload/tus/`,
  chunkSize: piece,
  limit: 2,
  retryDelays: [500, 1000, 3000, 5000, 10_000, 20_000],
  allowedMetaFields: ['name', 'type'],
  removeFingerprintOnSuccess: true,
  onBeforeRequest: async (request) => {
    request.setHeader('Authorization', `Bearer ${await token()}`)
  },
})

// Uppy does not mark a single file as a list, and does not make the list focusable, which scrolling by keyboard
// requires.
new MutationObserver(() => {
  const list = box.querySelector<HTMLElement>('.uppy-Dashboard-files')
  if (!list || list.tabIndex === 0) return
  list.tabIndex = 0
  list.setAttribute('role', 'list')
  list.setAttribute('aria-label', 'Files being uploaded')
}).observe(box, { childList: true, subtree: true })

const note = () => {
  running.value = new Set(uppy.getFiles().map((file) => file.name))
}
uppy.on('files-added', note)
uppy.on('file-removed', note)
uppy.on('upload-success', (file, response) => {
  const id = response.uploadURL?.split('/').pop()
  if (file && id) void arrived({ id, name: file.name, size: file.size ?? 0, type: file.type })
})
// Uppy keeps a complete file, and refuses to add it again. Remove the file if the user has deleted it from Strongroom.
fresh.watch((files) => {
  const ids = new Set(files.map((file) => file.id))
  for (const file of uppy.getFiles()) if (file.progress.uploadComplete && !ids.has(file.uploadURL?.split('/').pop() ?? '')) uppy.removeFile(file.id)
})
uppy.on('upload-error', (file, error, response) => {
  const xhr = (response?.body as { xhr?: XMLHttpRequest } | undefined)?.xhr
  const said = xhr?.status ? problemOf(xhr.status, xhr.responseText, xhr.getResponseHeader('Retry-After')).message : 'Strongroom cannot be reached. The bytes uploaded so far are kept.'
  complain(`${file?.name ?? 'A file'} was not uploaded. ${said}`)
  uppy.log(error)
})
