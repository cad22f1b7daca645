import type { ComponentChildren } from 'preact'
import { useEffect, useId, useRef, useState } from 'preact/hooks'
import { explain } from './problem'
import { Store, useStore } from './store'

interface Notice {
  id: number
  bad: boolean
  text: string
}

const notices = new Store<Notice[]>([])
const murmured = new Store('')
let count = 0

/** murmur announces a change, which the page already shows, to screen readers. */
export function murmur(text: string) {
  murmured.value = text
}

/** say shows a notice about a completed action. Screen readers announce it. */
export function say(text: string) {
  const id = add(text, false)
  setTimeout(() => drop(id), 8000)
}

/** complain shows an error until the user dismisses it. */
export function complain(error: unknown) {
  add(typeof error === 'string' ? error : explain(error), true)
}

function add(text: string, bad: boolean): number {
  const id = ++count
  notices.value = [...notices.value.filter((notice) => notice.text !== text), { id, bad, text }].slice(-4)
  return id
}

function drop(id: number) {
  notices.value = notices.value.filter((notice) => notice.id !== id)
}

/**
 * Notices shows the notices. All live regions exist from the start, because screen readers do not announce text
 * that is added together with its region.
 */
export function Notices() {
  const all = useStore(notices)
  const unseen = useStore(murmured)
  const shown = (bad: boolean) =>
    all.filter((notice) => notice.bad === bad).map((notice) => (
      <div key={notice.id} class={bad ? 'notice bad' : 'notice'}>
        <span>{notice.text}</span>
        <button type="button" class="plain" aria-label="Dismiss" onClick={() => drop(notice.id)}><Icon name="close" /></button>
      </div>
    ))
  return (
    <div class="notices">
      <div role="alert">{shown(true)}</div>
      <div role="status">{shown(false)}</div>
      <div role="status" class="unseen">{unseen}</div>
    </div>
  )
}

/**
 * Dialog is a modal dialog. The browser keeps the focus inside. On close, the focus returns to the element that had
 * it before.
 */
export function Dialog({ title, onClose, wide, children }: { title: string; onClose: () => void; wide?: boolean; children: ComponentChildren }) {
  const dialog = useRef<HTMLDialogElement>(null)
  const titleId = useId() // a dialog can open above another dialog
  useEffect(() => {
    const shown = dialog.current!
    const before = document.activeElement
    shown.showModal()
    return () => {
      shown.close() // after this, the page can focus elements outside of the dialog
      if (before instanceof HTMLElement && before.isConnected) before.focus()
      else document.querySelector<HTMLElement>('h1')?.focus()
    }
  }, [])
  return (
    <dialog ref={dialog} class={wide ? 'wide' : ''} aria-labelledby={titleId} onCancel={(event) => { event.preventDefault(); onClose() }}>
      <header>
        <h2 id={titleId}>{title}</h2>
        <button type="button" class="plain" aria-label="Close" onClick={onClose}><Icon name="close" /></button>
      </header>
      {children}
    </dialog>
  )
}

/** useTask runs one asynchronous task at a time, and keeps the message of its error. */
export function useTask() {
  const [busy, setBusy] = useState(false)
  const [error, setError] = useState('')
  async function run(work: () => Promise<void>) {
    if (busy) return
    setBusy(true)
    setError('')
    try {
      await work()
    } catch (thrown) {
      setError(explain(thrown))
    } finally {
      setBusy(false)
    }
  }
  return { busy, error, run }
}

/** Trouble shows an error message next to the part of the page that failed. */
export function Trouble({ text, onRetry }: { text: string; onRetry?: () => void }) {
  return (
    <div role="alert">
      {text && (
        <div class="trouble">
          <p>{text}</p>
          {onRetry && <button type="button" onClick={onRetry}>Try again</button>}
        </div>
      )}
    </div>
  )
}

const shapes = {
  close: 'M6 6l12 12M18 6L6 18',
  download: 'M12 4v11m0 0l-4.5-4.5M12 15l4.5-4.5M5 19.5h14',
  link: 'M10 14a4 4 0 005.7 0l3-3a4 4 0 00-5.7-5.7l-1 1M14 10a4 4 0 00-5.7 0l-3 3A4 4 0 0011 18.7l1-1',
  delete: 'M5 7h14M10 7V4.5h4V7m3 0l-.8 12.5H7.8L7 7m3.2 4v5m3.6-5v5',
  search: 'M11 18a7 7 0 100-14 7 7 0 000 14zm5-2l4.5 4.5',
}

export function Icon({ name }: { name: keyof typeof shapes }) {
  return (
    <svg class="icon" viewBox="0 0 24 24" aria-hidden="true" focusable="false">
      <path d={shapes[name]} />
    </svg>
  )
}

export function Logo() {
  return <img class="logo" src="/icon.svg" alt="" width="28" height="28" />
}
