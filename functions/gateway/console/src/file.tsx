import { useEffect, useRef, useState } from 'preact/hooks'
import { content, deleteFile, linkFile, type StoredFile } from './api'
import { size, When } from './format'
import { explain } from './problem'
import { complain, Dialog, Icon, say, Trouble, useTask } from './ui'

/**
 * download starts a browser download through a link that is valid for one minute. So the browser writes the file to
 * disk, and the page does not hold the file in memory.
 */
export async function download(file: StoredFile) {
  const { url } = await linkFile(file.id, 60)
  const link = document.createElement('a')
  link.href = url
  link.download = file.name
  link.click()
}

/** Intent is the part of a FileDialog that is shown first. */
export type Intent = 'show' | 'link' | 'delete'

/** FileDialog shows the details of one file and the actions for it. */
export function FileDialog({ file, intent, owner, onClose, onDeleted }: {
  file: StoredFile; intent: Intent; owner: string; onClose: () => void; onDeleted: () => void
}) {
  const [doing, setDoing] = useState(intent)
  if (doing === 'delete') return <Delete file={file} onClose={onClose} onDeleted={onDeleted} />
  if (doing === 'link') return <Share file={file} onClose={onClose} />
  return (
    <Dialog title={file.name} onClose={onClose} wide>
      <Preview file={file} />
      <dl>
        <dt>Size</dt><dd>{size(file.size)}{file.size >= 1024 && ` (${file.size.toLocaleString()} bytes)`}</dd>
        <dt>Type</dt><dd>{file.content_type}</dd>
        <dt>Added</dt><dd><When at={file.stored_at} /></dd>
        {owner && <><dt>Owner</dt><dd>{owner}</dd></>}
        {file.sha256 && <><dt>SHA-256</dt><dd><code>{file.sha256}</code></dd></>}
        <dt>ID</dt><dd><code>{file.id}</code></dd>
      </dl>
      <footer>
        <button type="button" class="danger" onClick={() => setDoing('delete')}>Delete…</button>
        <button type="button" onClick={() => setDoing('link')}>Share…</button>
        <button type="button" class="main" onClick={() => download(file).catch(complain)}><Icon name="download" /> Download</button>
      </footer>
    </Dialog>
  )
}

/**
 * pictures are the image types that a browser displays without running any code. SVG images can contain scripts, so
 * they have no preview.
 */
const pictures = ['image/png', 'image/jpeg', 'image/gif', 'image/webp', 'image/avif', 'image/bmp']
const texts = /^(text\/|application\/(json|xml|yaml|x-yaml|toml|javascript|x-sh|sql|x-ndjson)\b)/

/** The maximum size of a picture with a preview, and the maximum length of a text preview, in bytes. */
const pictureLimit = 32 << 20
const textLimit = 64 << 10

/** Preview shows a picture, or any text, including HTML, as plain text. The browser never runs code from a file. */
function Preview({ file }: { file: StoredFile }) {
  const [picture, setPicture] = useState('')
  const [text, setText] = useState<string>()
  const [error, setError] = useState('')
  const type = file.content_type.split(';')[0]!.trim().toLowerCase()
  const isPicture = pictures.includes(type) && file.size <= pictureLimit
  const isText = texts.test(type)
  useEffect(() => {
    if (!file.size || (!isPicture && !isText)) return
    let url = ''
    let left = false
    content(file.id, isPicture ? pictureLimit : textLimit).then(async (blob) => {
      if (isText) return setText(new TextDecoder().decode(await blob.arrayBuffer()))
      if (left) return
      url = URL.createObjectURL(new Blob([blob], { type }))
      setPicture(url)
    }).catch((thrown) => setError(explain(thrown)))
    return () => {
      left = true
      if (url) URL.revokeObjectURL(url)
    }
  }, [file.id])
  if (error) return <Trouble text={`No preview is available. ${error}`} />
  if (picture) return <div class="preview"><img src={picture} alt={`Preview of ${file.name}`} onError={() => setError('The picture cannot be displayed.')} /></div>
  if (text === undefined) return isPicture || (isText && file.size > 0) ? <div class="preview muted">Loading preview…</div> : null
  return (
    <>
      <pre class="preview" tabIndex={0} role="region" aria-label={`Preview of ${file.name}`}>{text}</pre>
      {file.size > textLimit && <p class="muted">The preview shows the first {size(textLimit)}.</p>}
    </>
  )
}

const spans: [number, string][] = [[3600, '1 hour'], [86_400, '1 day'], [604_800, '7 days']]

function Share({ file, onClose }: { file: StoredFile; onClose: () => void }) {
  const [seconds, setSeconds] = useState(3600)
  const [link, setLink] = useState<{ url: string; until: string }>()
  const field = useRef<HTMLInputElement>(null)
  const task = useTask()
  useEffect(() => {
    if (link) field.current?.select()
  }, [link])
  async function copy() {
    field.current!.select()
    // Without TLS, a page has no navigator.clipboard, and can only use execCommand.
    if (navigator.clipboard) await navigator.clipboard.writeText(link!.url)
    else if (!document.execCommand('copy')) throw new Error('the browser did not copy the link')
    say('Link copied.')
  }
  return (
    <Dialog title="Share link" onClose={onClose}>
      <p>Anyone with the link can download <strong>{file.name}</strong> without an account until the link expires or the file is deleted. A link cannot be revoked.</p>
      <form onSubmit={(event) => {
        event.preventDefault()
        void task.run(async () => {
          const made = await linkFile(file.id, seconds)
          setLink({ url: new URL(made.url, location.origin).href, until: made.expires_at })
        })
      }}>
        <label for="span">Expires after</label>
        <div class="row">
          <select id="span" value={seconds} onChange={(event) => setSeconds(Number(event.currentTarget.value))}>
            {spans.map(([value, text]) => <option key={value} value={value}>{text}</option>)}
          </select>
          <button type="submit" class={link ? '' : 'main'} disabled={task.busy}>{link ? 'Create another link' : 'Create link'}</button>
        </div>
      </form>
      <Trouble text={task.error} />
      {link && (
        <div>
          <label for="link">Link, valid until <When at={link.until} /></label>
          <div class="row">
            <input id="link" ref={field} readOnly value={link.url} />
            <button type="button" class="main" onClick={() => copy().catch(complain)}>Copy</button>
          </div>
        </div>
      )}
    </Dialog>
  )
}

function Delete({ file, onClose, onDeleted }: { file: StoredFile; onClose: () => void; onDeleted: () => void }) {
  const task = useTask()
  return (
    <Dialog title="Delete this file?" onClose={onClose}>
      <p><strong>{file.name}</strong> ({size(file.size)}) will be deleted for everyone. This cannot be undone.</p>
      <Trouble text={task.error} />
      <footer>
        <button type="button" autofocus onClick={onClose}>Cancel</button>
        <button type="button" class="danger" disabled={task.busy} onClick={() => task.run(async () => {
          await deleteFile(file.id)
          say(`Deleted ${file.name}.`)
          onDeleted()
        })}>Delete</button>
      </footer>
    </Dialog>
  )
}
