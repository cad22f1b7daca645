/** size formats a number of bytes with the same units as the upload form: 1 KB is 1024 bytes. */
export function size(bytes: number): string {
  let unit = 0
  for (; bytes >= 1024 && unit < 5; unit++) bytes /= 1024
  return `${unit === 0 || bytes >= 100 ? Math.round(bytes) : Math.round(bytes * 10) / 10} ${['B', 'KB', 'MB', 'GB', 'TB', 'PB'][unit]}`
}

const moments = new Intl.DateTimeFormat(undefined, { dateStyle: 'medium', timeStyle: 'short' })

export function When({ at }: { at: string }) {
  const date = new Date(at)
  return <time dateTime={at}>{Number.isNaN(date.valueOf()) ? at : moments.format(date)}</time>
}

/** kind returns a short name for a media type. */
export function kind(type: string): string {
  const [main = '', sub = ''] = type.split(';')[0]!.trim().split('/')
  const known: Record<string, string> = {
    'application/pdf': 'PDF', 'application/zip': 'ZIP archive', 'application/json': 'JSON', 'application/octet-stream': 'File', 'text/plain': 'Text',
  }
  const name = known[`${main}/${sub}`]
  if (name) return name
  const short = sub.replace(/^(x-|vnd\.)+/, '').replace(/\+.*$/, '')
  if (['image', 'video', 'audio', 'text', 'font'].includes(main)) return `${short.toUpperCase()} ${main}`
  return short.length > 20 ? 'File' : short || 'File'
}
