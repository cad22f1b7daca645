import { render } from 'preact'
import { useEffect, useRef, useState } from 'preact/hooks'
import './style.css'
import { Accounts } from './accounts'
import { Audit } from './audit'
import { Confirm } from './confirm'
import { Devices } from './devices'
import { Files } from './files'
import { Passkeys } from './passkeys'
import { Password } from './password'
import { explain } from './problem'
import { refresh, session, signOut, type Session } from './session'
import { SignIn } from './signin'
import { useStore } from './store'
import { Logo, Notices, Trouble, useTask } from './ui'

const pages: { path: string; title: string; admin: boolean; listed: boolean; show: (session: Session) => preact.JSX.Element }[] = [
  { path: '/', title: 'My files', admin: false, listed: true, show: (s) => <Files key="mine" owner={s.user.id} /> },
  { path: '/admin/files', title: 'All files', admin: true, listed: true, show: () => <Files key="all" everybody /> },
  { path: '/admin/accounts', title: 'Accounts', admin: true, listed: true, show: (s) => <Accounts me={s.user.id} /> },
  { path: '/admin/audit', title: 'Audit log', admin: true, listed: true, show: () => <Audit /> },
  { path: '/devices', title: 'Sessions', admin: false, listed: false, show: () => <Devices /> },
  { path: '/passkeys', title: 'Passkeys', admin: false, listed: false, show: (s) => <Passkeys required={s.restricted} /> },
  { path: '/password', title: 'Change password', admin: false, listed: false, show: (s) => <Password username={s.user.username} /> },
]

/** usePath returns the path of the current page, and a function that opens the page at another path. */
function usePath(): [string, (path: string) => void] {
  const [path, setPath] = useState(location.pathname)
  useEffect(() => {
    const follow = () => setPath(location.pathname)
    addEventListener('popstate', follow)
    return () => removeEventListener('popstate', follow)
  }, [])
  return [path, (to) => {
    history.pushState(null, '', to)
    setPath(to)
  }]
}

function Room({ session }: { session: Session }) {
  const [place, go] = usePath()
  const path = session.restricted ? '/passkeys' : place
  const heading = useRef<HTMLHeadingElement>(null)
  const arrived = useRef(false)
  const leaving = useTask()
  const allowed = pages.filter((page) => !page.admin || session.admin)
  const page = allowed.find((page) => page.path === path)
  const title = page?.title ?? 'Page not found'
  useEffect(() => {
    document.title = `${title} – Strongroom`
    // Focus the heading, so that screen readers announce the new page.
    if (arrived.current) heading.current?.focus()
    arrived.current = true
  }, [path])
  const link = (to: string, text: string) => (
    <a href={to} aria-current={to === path ? 'page' : undefined} onClick={(event) => {
      if (event.ctrlKey || event.metaKey || event.shiftKey) return
      event.preventDefault()
      go(to)
    }}>{text}</a>
  )
  return (
    <>
      <a class="skip" href="#main">Skip to content</a>
      <header class="bar">
        <div class="brand"><Logo /><span>Strongroom</span></div>
        {session.admin && <nav aria-label="Pages">{allowed.filter((p) => p.listed).map((p) => link(p.path, p.title))}</nav>}
        <div class="me">
          {!session.admin && !session.restricted && path !== '/' && link('/', 'My files')}
          <span class="who">{session.user.username}</span>
          {!session.restricted && link('/devices', 'Sessions')}
          {!session.restricted && link('/passkeys', 'Passkeys')}
          {!session.restricted && link('/password', 'Password')}
          <button type="button" disabled={leaving.busy} onClick={() => leaving.run(signOut)}>Sign out</button>
        </div>
      </header>
      <main id="main" tabIndex={-1}>
        <Trouble text={leaving.error && `You are still signed in. ${leaving.error}`} />
        <h1 ref={heading} tabIndex={-1}>{title}</h1>
        {page?.show(session)}
      </main>
      <Confirm />
    </>
  )
}

function Console() {
  const current = useStore(session)
  const [error, setError] = useState('')
  const look = () => {
    setError('')
    refresh().catch((thrown) => setError(explain(thrown)))
  }
  useEffect(look, [])
  return (
    <>
      {current ? <Room key={current.user.id} session={current} /> : current === null ? <SignIn /> : (
        <main class="door" aria-busy={!error}><Trouble text={error} onRetry={look} /></main>
      )}
      <Notices />
    </>
  )
}

render(<Console />, document.getElementById('console')!)
