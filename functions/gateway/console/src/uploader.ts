import Uppy from '@uppy/core'
import Dashboard from '@uppy/dashboard'
import Tus from '@uppy/tus'
import '@uppy/core/css/style.min.css'
import '@uppy/dashboard/css/style.min.css'
import './uploader.css'
import { problemOf } from './problem'
import { token } from './session'
import { Store } from './store'
import { complain } from './ui'
import { arrived } from './uploads'

/** The size of a request in bytes: each has to end before its timeouts and before its token does, and one lost costs no more. */
const piece = 32 << 20

/** box is the element with the uploads in it, to be put where they are to be shown. */
export const box = document.createElement('div')

/** running are the names of the files that are being uploaded. */
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

// Uppy forgets that one file is a list too, and that a keyboard has to be able to scroll it.
new MutationObserver(() => {
  const list = box.querySelector<HTMLElement>('.uppy-Dashboard-files')
  if (!list || list.tabIndex === 0) return
  list.tabIndex = 0
  list.setAttribute('role', 'list')
  list.setAttribute('aria-label', 'Files that are uploaded')
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
uppy.on('upload-error', (file, error, response) => {
  const xhr = (response?.body as { xhr?: XMLHttpRequest } | undefined)?.xhr
  const said = xhr?.status ? problemOf(xhr.status, xhr.responseText, xhr.getResponseHeader('Retry-After')).message : 'Strongroom can not be reached; what was sent is kept.'
  complain(`${file?.name ?? 'A file'} was not uploaded. ${said}`)
  uppy.log(error)
})
